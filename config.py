"""Every option of every script: a table of dataclass fields, with all that is known of each option; and the presets.

cli/ turns command lines and JSON files into these classes, and back. Only the standard library is imported here.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from common.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def option(
    default: Any,
    help: str,
    *,
    none: str = "",
    choices: Sequence[str] | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    normalize: Callable[[str], str] | None = None,
    aliases: tuple[str, ...] = (),
    resume: Literal["fixed", "free"] = "fixed",
    saved: bool = True,
    secret: bool = False,
    path: Literal["", "always", "if it exists"] = "",
    inherited: bool = False,
    affects: Literal["nothing", "books", "drawing", "scoring"] | None = None,
    setting: str = "",
    memory: bool | Callable[[Any], Any] = True,
    learning_rate_of: str = "",
    positional: bool = False,
) -> Any:
    """A dataclass field for one option. Its metadata has all of these facts, under the names of the parameters.

    Values:
        help: what it means, with its unit; none: what None stands for, where that is the default
        choices: the texts that are allowed; ge, gt, le: bounds of a number (>=, >, <=)
        normalize: function that returns the usual form of a text; it raises ValueError for a wrong one
        aliases: other names that are accepted on the command line and in --config
        positional: it is a word of its own on the command line, without --name
    Runs:
        resume: "free" if it may change when a run is resumed, "fixed" if that would contradict what is already trained
        saved: whether it is in config.json; not what names a run, nor what concerns one call of the script
        secret: its value is never printed or read from a file
        path: whether it names a folder, which is saved as an absolute path; a hub id that could be one stays as it is
        inherited: sd_inference and report take it from the run unless it is given
    Comparisons:
        affects: versions are compared only if they agree on the options that affect which "books" and prompts are
            drawn, the "drawing" itself, or the "scoring". None: the option is not one of drawing or scoring
        setting: its name in settings.json and metrics.json, if that is another one
    Training:
        memory: what of the value can change how much GPU memory training takes: True = all of it, False = nothing, or
            a function of the value. The default is safe: a memory forecast is reused only if the values are equal
        learning_rate_of: the trained part whose learning rate it is
    """
    metadata = {name: value for name, value in locals().items() if name != "default"}
    return dataclasses.field(default=default, metadata=metadata)


# Options that have most facts in common
book_option = functools.partial(option, inherited=True, affects="books", memory=False)
drawing_option = functools.partial(option, inherited=True, affects="drawing")
tracking_option = functools.partial(option, resume="free", inherited=True, memory=False)


# ---------------------------------------------------------------------------------------------------------------------
# Presets: options for a GPU with this much memory, where UNet and text encoder may both be trained, at 512x768.
# Explicit options win over a preset, which wins over the defaults. config.json has what it set, not the preset's name.

SMALL = dict(  # needs a GPU with bf16: half the bytes, one gradient at a time, and the rest is not on the GPU
    fused_backward=True, weights_dtype="bf16", grad_ckpt=True, cache_latents=True, ema_device="cpu", vae_tiling=True
)
PRESETS: dict[str, dict[str, Any]] = {
    "6gb": dict(batch_size=1, optimizer="paged_adamw8bit", **SMALL),
    "8gb": dict(batch_size=4, optimizer="adamw8bit", **SMALL),
    "12gb": dict(batch_size=4, optimizer="adamw8bit", grad_ckpt=True, cache_latents=True, ema_device="cpu"),
    "24gb": dict(batch_size=8, optimizer="adamw", grad_ckpt=True, cache_latents=True),
    # The free GPU of Colab and Kaggle: no bf16, so that --mixed_precision auto computes in fp16, and a slow machine
    # around it: the average stays on the GPU
    "t4": dict(batch_size=4, optimizer="adamw8bit", grad_ckpt=True, cache_latents=True, vae_tiling=True),
}
PRESET_GIB = {"6gb": 6.0, "8gb": 8.0, "12gb": 12.0, "24gb": 24.0, "t4": 14.7}  # memory of the GPU, as CUDA tells it


# ---------------------------------------------------------------------------------------------------------------------
# Options. A class is a group in --help, and its docstring the heading of the group.

METRICS = ("fid", "kid", "precision", "memorisation", "legibility", "clip")  # choices of --metrics
OUTPUT_DIR: dict[str, Any] = dict(
    default="runs", help="folder that holds the runs", resume="free", path="always", affects="nothing", memory=False
)
CACHE_DIR: dict[str, Any] = dict(
    default=None,
    help="folder for derived files: index of the data, cached latents, features of real covers",
    none="book-covers in the user's cache folder, ~/.cache",
    resume="free",
    path="always",
    inherited=True,
    affects="nothing",
    memory=False,
)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """data"""

    data_root: str = book_option(
        "../book_dataset",
        "data folder in the layout of Goodreads best books (docs/data.md); 'demo' = invented books with covers drawn "
        "by code",
        resume="free",
        path="always",
    )
    cache_dir: str | None = option(**CACHE_DIR)
    resolution: str = drawing_option(
        "512x768",
        "size of the covers in pixels: WIDTHxHEIGHT, or one number for squares; multiples of 8",
        normalize=lambda text: "{}x{}".format(*parse_size(text)),
    )
    test_fraction: float = book_option(
        0.1,
        "fraction of the books to hold out as the test split, if the data folder has no df_train.csv and df_test.csv",
        gt=0,
        le=0.9,
    )
    min_ascii: float = book_option(
        0.97,
        "leave out books whose title and description have a smaller fraction of ASCII characters than this; 0 keeps "
        "every language",
        ge=0,
        le=1,
    )
    allow_extra_images: bool = option(
        False,
        "accept images whose numbers no row of book_data.csv has; without it they are an error, because rows may have "
        "been deleted, and then all later rows have images of others (docs/data.md)",
        resume="free",
        inherited=True,
        affects="nothing",  # it only permits: the books that are used are compared by themselves
        memory=False,
    )
    include_desc: bool = book_option(
        False, "append the description to the prompt, as much of it as fits into 77 tokens"
    )
    summarize_desc: bool = book_option(
        False,
        "with --include_desc: first shorten the descriptions with the --summarizer model; the summaries are cached",
    )
    summarizer: str = book_option(
        "facebook/bart-large-cnn",
        "Hugging Face model id or folder of the summarization model",
        path="if it exists",
    )
    num_workers: int | None = option(
        None,
        "threads or processes that read images",
        none="one for each CPU core, at most 8; at most one with cached latents",
        ge=0,
        le=256,
        resume="free",
        inherited=True,
        affects="nothing",
        memory=False,
    )


@dataclass(frozen=True, kw_only=True)
class BucketOptions(DataOptions):
    """aspect-ratio buckets"""

    buckets: bool = option(
        False,
        "train each cover at the size closest to its own aspect ratio, out of those with about the area of "
        "--resolution and sides that are multiples of 64 (of 16 below 256 pixels). Covers are still drawn at "
        "--resolution",
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """model and run"""

    pretrained_model: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Hugging Face model id or local folder of a Stable Diffusion 1.x pipeline; 'mini' = the bundled miniature for "
        "128x192, which trains on a CPU; 'tiny' = a toy for tests; 'sd15-random' = the architecture of Stable "
        "Diffusion 1.5 with random weights, for --plan and benchmarks",
        path="if it exists",
        affects="nothing",  # the hash of a version's weights is compared
        memory=False,  # a forecast is stored by its architecture
    )
    output_dir: str = option(**OUTPUT_DIR)
    num_gpus: int = option(
        1, "number of processes to launch with Accelerate, one for each GPU", ge=1, affects="nothing", memory=False
    )
    batch_size: int = option(
        4, "covers that the model processes at once, on each GPU", ge=1, le=4096, resume="free", affects="nothing"
    )
    seed: int = drawing_option(
        0, "seed of all random numbers: the same seed gives the same run and the same covers", ge=0, memory=False
    )
    mixed_precision: str = option(
        "auto",
        "precision in which the model computes; auto = bf16 if the GPU supports it, else fp16; no (fp32) on a CPU",
        choices=("auto", "no", "bf16", "fp16"),
        affects="drawing",
        setting="precision",
    )


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """experiment tracking"""

    tracker: str | None = tracking_option(
        None,
        "service that gets metrics, preview covers and versions, besides the run's folder on disk",
        none="wandb if WANDB_API_KEY is set, else none",
        choices=("none", "wandb", "trackio", "tensorboard"),
    )
    wandb_key: str | None = option(
        None,
        "API key of wandb; selects --tracker wandb. It is safer in the environment variable WANDB_API_KEY",
        none="that variable",
        saved=False,
        secret=True,
        inherited=True,
        memory=False,
    )
    wandb_project: str = tracking_option("book_cover_generation", "project of the runs, in wandb and trackio")
    wandb_entity: str | None = tracking_option(None, "user or team in wandb", none="that of the API key")
    upload: str = tracking_option(
        "all",
        "files to upload to wandb or trackio; versions = the saved versions; all = also the training state, so that "
        "the run can be resumed on another machine. Metrics and previews are always uploaded",
        choices=("all", "versions", "none"),
    )


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """drawing covers"""

    steps: int = drawing_option(
        25, "number of sampling steps for each cover", ge=1, aliases=("num_inference_steps",), memory=False
    )
    guidance_scale: float = drawing_option(
        7.5, "scale of classifier-free guidance; 1 = no guidance", ge=1, le=1000, memory=lambda scale: scale > 1
    )
    scheduler: str = drawing_option(
        "dpm++", "sampling algorithm", choices=("dpm++", "ddim", "pndm", "euler"), memory=False
    )
    num_samples: int = option(
        4,
        "held-out books to draw in previews and in the grid",
        ge=1,
        le=1000,
        resume="free",
        inherited=True,
        affects="nothing",
    )
    vae_tiling: bool = option(
        False,
        "decode each cover in overlapping tiles: takes less memory for large covers, changes pixels slightly",
        resume="free",
        inherited=False,  # what a small GPU needed for training must not show in the scores
        affects="drawing",
    )


@dataclass(frozen=True, kw_only=True)
class FidOptions:
    """scoring"""

    fid_stats_path: str = option(
        "fid_stats.npz",
        "file with the statistics of real covers, written by precalc_fid_stats",
        affects="nothing",  # a fingerprint of what is in it is compared
    )
    fid_features: str = option(
        "inception",
        "feature network; inception = the official FID weights; efficientnet = ImageNet weights that are installed "
        "with pip: works offline, but its distance is not FID",
        choices=("inception", "efficientnet"),
        affects="nothing",  # the hash of the network's weights is compared
    )
    fid_weights: str | None = option(
        None, "file with the official Inception weights for FID", none="downloaded by pytorch-fid", affects="nothing"
    )
    fid_resize: str = option(
        "clean",
        "how covers are resized for the feature network; clean = antialiased; legacy = like pytorch-fid, with which it "
        "agrees to six digits",
        choices=("clean", "legacy"),
        affects="scoring",
    )
    fid_batch_size: int = option(50, "images that the feature network processes at once", ge=1, affects="nothing")
    split: str = option(
        "test",
        "split of the data to use",
        choices=("train", "test", "all"),
        affects="nothing",  # a hash of the rows is compared
    )


@dataclass(frozen=True, kw_only=True)
class TypeOptions:
    """type on covers"""

    typeset_width: int = option(
        1600,
        "width in pixels that a picture is enlarged to (Lanczos) before type is set on it; wider ones stay as they are",
        ge=64,
        le=8192,
        affects="nothing",
        memory=False,
    )
    typeset_font: str = option(
        "serif",
        "serif = EB Garamond, sans = Source Sans 3, or a TrueType or OpenType file",
        affects="nothing",
        memory=False,
    )
    typeset_place: str = option(
        "auto",
        "end of the picture that title and author stand at; auto = the one with the smaller gradients",
        choices=("auto", "top", "bottom"),
        affects="nothing",
        memory=False,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(TrackingOptions, DrawingOptions, ModelOptions, BucketOptions):
    """training"""

    run_id: str | None = option(None, "run to resume", none="start a new run", saved=False, memory=False)
    run_name: str | None = option(None, "id of the new run", none="made from date and time", saved=False, memory=False)
    preset: str | None = option(
        None,
        "options for a GPU with this much memory at 512x768; explicit options win, and the options that it sets are "
        "printed. 6gb and 8gb need a GPU with bf16, such as RTX 30xx or later; t4 = a T4, as Colab has it for free",
        none="no preset",
        choices=tuple(PRESETS),
        saved=False,
        memory=False,
    )
    train_unet: bool = option(False, "fine-tune the UNet")
    train_text_encoder: bool = option(True, "fine-tune the CLIP text encoder")
    num_examples: int | None = option(
        None,
        "number of covers to train on: the first ones of a fixed random order",
        none="all",
        ge=1,
        memory=False,
    )
    epochs: int = option(1, "passes over the training covers", ge=1, resume="free", memory=False)
    max_steps: int | None = option(
        None, "stop after this many optimizer updates", none="when --epochs are done", ge=1, resume="free", memory=False
    )
    grad_acc_steps: int = option(
        1,
        "gradient accumulation: batches whose gradients are averaged into one optimizer update",
        ge=1,
        resume="free",
        memory=lambda steps: min(2, steps),
    )
    lr: float = option(1e-5, "learning rate of the UNet", gt=0, memory=False, learning_rate_of="unet")
    lr_text_encoder: float = option(
        1e-5, "learning rate of the text encoder", gt=0, memory=False, learning_rate_of="text_encoder"
    )
    lr_scheduler: str = option(
        "constant",
        "learning-rate schedule, counted in optimizer updates",
        choices=("constant", "constant_with_warmup", "linear", "cosine"),
        memory=False,
    )
    warmup_steps: int = option(
        0, "optimizer updates of linear warm-up; not with --lr_scheduler constant", ge=0, memory=False
    )
    optimizer: str = option(
        "adamw8bit",
        "adamw8bit = AdamW with 8-bit states (bitsandbytes); paged_adamw8bit = the same, and its states can move to "
        "CPU memory when the GPU is full; adamw = AdamW of PyTorch; adafactor = hardly any states",
        choices=("adamw8bit", "adamw", "paged_adamw8bit", "adafactor"),
    )
    weight_decay: float = option(0.01, "decoupled weight decay", ge=0, memory=False)
    max_grad_norm: float = option(
        1.0, "clip the gradients of all trained parts together to this norm", gt=0, memory=False
    )
    fused_backward: bool = option(
        False,
        "update each weight during the backward pass and free its gradient, so that the gradients are never all in "
        "memory. --max_grad_norm then clips the gradient of each weight separately, and an update has one batch",
    )
    weights_dtype: str = option(
        "fp32",
        "precision of the trained weights; bf16 = computes in bf16 and rounds each update stochastically",
        choices=("fp32", "bf16"),
    )
    ema_decay: float | None = option(
        None,
        "use an exponential moving average (EMA) of the weights for versions, previews and validation; 0.999 averages "
        "over about the last 1000 updates",
        none="no EMA",
        gt=0,
        le=0.99999,
        memory=bool,
    )
    ema_device: str = option(
        "auto",
        "device of the EMA weights (fp32); auto = that of the model; cpu = saves GPU memory, costs a copy at each "
        "update",
        choices=("auto", "cpu"),
        resume="free",
    )
    snr_gamma: float | None = option(
        None, "gamma of min-SNR loss weighting (arXiv:2303.09556), usually 5", none="no weighting", gt=0
    )
    caption_dropout: float = option(
        0.1,
        "fraction of training prompts replaced by the empty prompt, which classifier-free guidance needs",
        ge=0,
        le=1,
        memory=False,
    )
    cache_latents: bool = option(
        False,
        "encode each cover with the VAE once, and store the latents in --cache_dir (half precision, 98 KB a cover at "
        "512x768). Training then reads no images, and the VAE leaves the GPU",
    )
    grad_ckpt: bool = option(
        True,
        "gradient checkpointing: recompute activations in the backward pass, to save memory",
        aliases=("gradient_checkpointing",),
        resume="free",
    )
    save_every: int = option(500, "optimizer updates between saved versions", ge=1, resume="free", memory=False)
    validate_every: int = option(
        250,
        "optimizer updates between validation losses; each saved version gets one, too",
        ge=1,
        resume="free",
        memory=False,
    )
    sample_every: int = option(
        500, "optimizer updates between preview covers; 0 = no previews", ge=0, resume="free", memory=bool
    )
    keep_versions: int = option(
        3,
        "newest versions to keep on disk, besides 'best' and 'latest'; older ones are deleted",
        ge=0,
        resume="free",
        memory=False,
    )
    save_dtype: str = option(
        "auto",
        "precision of the weights in saved versions; auto = that of --mixed_precision. Resuming is exact with any, as "
        "the training state has the weights in full",
        choices=("auto", "fp32", "bf16", "fp16"),
        memory=False,
    )
    validation_rows: int = option(64, "held-out covers that the validation loss is computed on", ge=1)
    plan: bool = option(
        False,
        "print a forecast of the GPU memory that these options need, and do not train; needs no data, no GPU and no "
        "weights",
        saved=False,
        memory=False,
    )
    json: bool = option(False, "with --plan: print one JSON object instead of a table", saved=False, memory=False)
    vram_gb: float | None = option(
        None,
        "with --plan: memory of the GPU in GiB",
        none="that of the GPU in this machine, else of --preset, else 12",
        gt=0,
        saved=False,
        memory=False,
    )


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(TypeOptions, TrackingOptions, FidOptions, DrawingOptions, ModelOptions, DataOptions):
    """inference"""

    run_id: str | None = option(None, "run whose version is loaded", none="the newest run in --output_dir", saved=False)
    version: str = option(
        "latest", "v0 = the pretrained model, v1, v2, ..., latest, best, or the folder of a pipeline", saved=False
    )
    save_dir: str | None = option(None, "folder for the covers", none="'covers' in the run's folder")
    prompt: str | None = option(
        None, "draw one cover from this prompt", none="a grid: prompt templates x held-out books"
    )
    calc_fid: bool = option(
        False, "draw a cover for --num_imgs books of --split, and score them against --fid_stats_path"
    )
    num_imgs: int | None = option(
        None,
        "with --calc_fid: number of covers to draw and score: the first ones of a fixed random order",
        none="all",
        ge=1,
    )
    metrics: str = option("all", f"with --calc_fid: all, or some of {', '.join(METRICS)}, separated by commas")
    clip_model: str | None = option(
        None,
        "with --calc_fid: Hugging Face model id or folder of a CLIP model, for the metric clip",
        none="none, and clip is skipped",
        saved=False,
    )
    typeset: bool = option(
        False,
        "besides, set title and author as type on an enlarged copy of each cover, in the folder 'typeset' beside them; "
        "scores are those of the covers without it",
        affects="nothing",
        memory=False,
    )


@dataclass(frozen=True, kw_only=True)
class StatsOptions(FidOptions, DataOptions):
    """statistics"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(TrackingOptions, DrawingOptions, ModelOptions, DataOptions):
    """report"""

    run_id: str | None = option(
        None, "runs to show, separated by commas", none="the newest run in --output_dir", saved=False
    )
    version: str = option(
        "v0,best,latest", "versions to show of each run, separated by commas; RUN:VERSION = a version of another run"
    )
    save_dir: str | None = option(
        None,
        "folder for the covers that are shown",
        none="'covers' in each run's folder; with several runs, --save_dir gets a folder for each",
    )
    report_path: str = option("report.html", "HTML file to write")
    mixed: bool = option(False, "show versions side by side even if they were scored with different settings")


@dataclass(frozen=True, kw_only=True)
class RunsOptions(TrackingOptions):
    """runs"""

    output_dir: str = option(**OUTPUT_DIR)
    run_id: str | None = option(None, "show only this run, in detail", none="list all runs")
    verify: bool = option(False, "check every file of --run_id against the SHA-256 that it was saved with")
    publish: bool = option(False, "upload what the tracker does not have yet of --run_id")
    prune: bool = option(False, "delete those versions and states of --run_id from wandb that the run no longer lists")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(BucketOptions):
    """data check"""

    pretrained_model: str = option(
        "tiny",
        "model whose tokenizer counts the tokens of the prompts: Hugging Face model id or folder; 'tiny' = the toy "
        "tokenizer, which needs no download",
    )


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """folders to check"""

    output_dir: str = option(**OUTPUT_DIR)
    cache_dir: str | None = option(**CACHE_DIR)


@dataclass(frozen=True, kw_only=True)
class TypesetOptions(TypeOptions):
    """pictures"""

    picture: str | None = option(
        None, "picture to set title and author on, or a folder of pictures", none="none", positional=True
    )
    title: str | None = option(None, "title of the book", none="with a folder: the column of --books")
    author: str | None = option(None, "author of the book", none="no author")
    books: str | None = option(
        None,
        "with a folder: CSV file with the columns file (name of a picture in the folder), title and author (may be "
        "empty)",
        none="one picture, with --title",
    )
    out: str | None = option(
        None,
        "folder for the typeset pictures; for one picture also a file that ends in .png",
        none="beside each picture",
    )
    overwrite: bool = option(
        False, "replace also files that this script has not made; without it they are an error, and nothing is written"
    )


SCRIPTS: dict[type[DataclassInstance], str] = {
    TrainingOptions: "training",
    InferenceOptions: "sd_inference",
    StatsOptions: "precalc_fid_stats",
    ReportOptions: "report",
    RunsOptions: "runs",
    DatasetOptions: "dataset",
    DoctorOptions: "doctor",
    TypesetOptions: "typeset",
}


# ---------------------------------------------------------------------------------------------------------------------
# Facts of options


def option_names(cls: type[DataclassInstance] | DataclassInstance, fact: str, *values: Any) -> list[str]:
    """Names of the options whose `fact`, a parameter of option(), has one of these values; in the order of the fields.

    cls: an options class or an instance of one.
    """
    return [field.name for field in dataclasses.fields(cls) if field.metadata[fact] in values]


def setting_options(affects: str) -> dict[str, str]:
    """{name in settings.json and metrics.json: option} of the options that affect "drawing", or "scoring"."""
    fields = [field for field in dataclasses.fields(InferenceOptions) if field.metadata["affects"] == affects]
    return {field.metadata["setting"] or field.name: field.name for field in fields}


def memory_settings(options: TrainingOptions) -> dict[str, Any]:
    """{option: what of its value can change how much GPU memory training takes}, ready for JSON."""
    settings = {}
    for field in dataclasses.fields(options):
        relevant, value = field.metadata["memory"], getattr(options, field.name)
        if relevant:
            settings[field.name] = relevant(value) if callable(relevant) else value
    return settings


def learning_rates(options: TrainingOptions) -> dict[str, float]:
    """{part that can be trained: its learning rate}."""
    fields = [field for field in dataclasses.fields(options) if field.metadata["learning_rate_of"]]
    return {field.metadata["learning_rate_of"]: getattr(options, field.name) for field in fields}


def to_json(options: DataclassInstance) -> dict[str, Any]:
    """{option: value} for config.json, with absolute paths."""
    fields = [field for field in dataclasses.fields(options) if field.metadata["saved"]]
    return {field.name: absolute_path(field, getattr(options, field.name)) for field in fields}


# ---------------------------------------------------------------------------------------------------------------------
# Paths in config.json: a run may be resumed from another folder, or on another machine

BUNDLED = ("demo", "mini", "tiny", "sd15-random")  # data and models that are no folders


def absolute_path(field: dataclasses.Field[Any], value: Any, base: str | os.PathLike[str] = "") -> Any:
    """The value of an option, as an absolute path if it is a path. base: the folder that it is relative to; "": the
    working directory."""
    kind = field.metadata["path"]
    if not kind or not isinstance(value, str) or value in BUNDLED:
        return value
    path = os.path.abspath(os.path.join(base, os.path.expanduser(value)))
    return path if kind == "always" or os.path.isdir(path) else value


def find_paths(cls: type[DataclassInstance], saved: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """The options {name: value} from a run's config.json (`path`), with absolute paths where they can be found.

    Older runs saved paths as they were typed. They are looked for in the folder in which the run was started, which
    follows from a relative --output_dir, and then in the working directory; what is in neither is left as it is.
    """
    bases = [pathlib.Path.cwd()]
    typed = pathlib.Path(os.path.normpath(str(saved.get("output_dir", OUTPUT_DIR["default"])))).parts
    home = path.absolute().parent.parent.parts
    if home[-len(typed) :] == typed:
        bases.insert(0, pathlib.Path(*home[: -len(typed)]))
    found = dict(saved)
    for field in dataclasses.fields(cls):
        value = found.get(field.name)
        if field.metadata["path"] and isinstance(value, str) and value not in BUNDLED:
            places = [os.path.join(base, os.path.expanduser(value)) for base in bases]
            found[field.name] = next((os.path.abspath(place) for place in places if os.path.isdir(place)), value)
    return found


def is_gone(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a saved value is the path of a folder that does not exist (any more, or on this machine)."""
    return bool(field.metadata["path"]) and isinstance(value, str) and os.path.isabs(value) and not os.path.isdir(value)


# ---------------------------------------------------------------------------------------------------------------------
# Values of options that stand for something else


def parse_size(text: str) -> tuple[int, int]:
    """'512x768' or '512' -> (width, height) in pixels. ValueError unless both are multiples of 8 from 32 to 4096."""
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", str(text).strip())
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(32 <= side <= 4096 and side % 8 == 0 for side in (width, height)):
        raise ValueError("expected WIDTHxHEIGHT or one number, multiples of 8 from 32 to 4096, such as 512x768")
    return width, height


def size(options: DataOptions) -> tuple[int, int]:
    """(width, height) of the covers in pixels."""
    return parse_size(options.resolution)


def cache_path(options: DataOptions | DoctorOptions) -> pathlib.Path:
    """Path of the folder for derived files, which may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(options.cache_dir or pathlib.Path(base) / "book-covers").expanduser()


def cache_dir(options: DataOptions) -> pathlib.Path:
    """Path of the folder for derived files, created if needed. UserError if that fails."""
    folder = cache_path(options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"can't make the cache folder {folder}: {problem}; choose another with --cache_dir") from None
    return folder


STORES = ("wandb", "trackio")  # trackers that also store versions and the training state


def tracker(options: TrackingOptions) -> str:
    """Name of the tracker: none, wandb, trackio or tensorboard."""
    name = options.tracker or ("wandb" if os.environ.get("WANDB_API_KEY") else "none")
    return "none" if name == "wandb" and os.environ.get("WANDB_MODE") == "disabled" else name


def num_workers(options: DataOptions) -> int:
    """Number of threads or processes that read images."""
    return min(8, os.cpu_count() or 1) if options.num_workers is None else options.num_workers
