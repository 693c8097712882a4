"""Every option of every script, once: dataclass fields with unit, default and what None means. And the presets.

cli/ reads their values and makes command lines from them. Only the standard library is imported here.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from dataclasses import dataclass

from common.errors import UserError


def option(default, help, *, none="", choices=None, least=None, above=None, most=None, resume="fixed", saved=True):
    """One option: its default, its meaning with its unit, and (for None) what None stands for.

    least/above/most bound numbers (>=, >, <=). resume="free" may change when a run is resumed without changing what
    was already learned; "fixed" may not. saved=False keeps it out of config.json (identity of a run, not a setting).
    """
    meta = dict(help=help, none=none, choices=choices, least=least, above=above, most=most, resume=resume, saved=saved)
    return dataclasses.field(default=default, metadata=meta)


# ---------------------------------------------------------------------------------------------------------------------
# Presets: options for a GPU with this much memory. UNet and text encoder may both learn, at 512x768.
# A preset stands between the defaults and what was given, and is then forgotten: a run's config.json has what it set.

SMALL = dict(  # needs a GPU that computes in bf16: half the bytes, gradients one at a time, the rest off the GPU
    fused_backward=True, weights_dtype="bf16", grad_ckpt=True, cache_latents=True, ema_device="cpu", vae_tiling=True
)
PRESETS = {
    "6gb": dict(batch_size=1, optimizer="paged_adamw8bit", **SMALL),
    "8gb": dict(batch_size=4, optimizer="adamw8bit", **SMALL),
    "12gb": dict(batch_size=4, optimizer="adamw8bit", grad_ckpt=True, cache_latents=True, ema_device="cpu"),
    "24gb": dict(batch_size=8, optimizer="adamw", grad_ckpt=True, cache_latents=True),
}


METRICS = ("fid", "kid", "precision", "memorisation", "legibility", "clip")  # what --metrics picks from


# ---------------------------------------------------------------------------------------------------------------------
# The options


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """data"""

    data_root: str = option(
        "../book_dataset", "data folder in the Goodreads layout; 'demo' = covers drawn by code", resume="free"
    )
    cache_dir: str = option(
        None, "folder for derived files", none="the user's cache folder, ~/.cache/book-covers", resume="free"
    )
    resolution: str = option("512x768", "cover size in pixels, WIDTHxHEIGHT or one number; multiples of 8")
    test_fraction: float = option(
        0.1, "share of books held out, where df_train.csv/df_test.csv do not say", above=0, most=0.9
    )
    min_ascii: float = option(
        0.97, "least share of plain ASCII characters in title and description; 0 keeps every language", least=0, most=1
    )
    include_desc: bool = option(False, "let the prompt end with as much of the description as fits into 77 tokens")
    summarize_desc: bool = option(
        False, "with --include_desc: shorten descriptions with the --summarizer model first (cached)"
    )
    summarizer: str = option("facebook/bart-large-cnn", "hub id or folder of the transformers summarizer")
    num_workers: int = option(
        None,
        "threads and processes that read images",
        none="one for each core, at most 8; beside cached latents at most one",
        least=0,
        resume="free",
    )


@dataclass(frozen=True, kw_only=True)
class BucketOptions(DataOptions):
    """buckets"""

    buckets: bool = option(
        False,
        "train each cover at the size nearest to its own shape, of those with about the area of --resolution and sides "
        "that are multiples of 64 (of 16 under 256 pixels); covers are still drawn at --resolution",
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """model and run"""

    pretrained_model: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "hub id or local folder of a Stable Diffusion 1.x pipeline; 'mini' = the bundled miniature, draws 128x192; "
        "'tiny' = a toy, for tests; 'sd15-random' = the architecture of Stable Diffusion 1.5 with random weights, for "
        "plans and benchmarks",
    )
    output_dir: str = option("runs", "folder where runs live", resume="free")
    num_gpus: int = option(1, "processes to launch through Accelerate, one for each GPU", least=1)
    batch_size: int = option(4, "covers that go through the model at once, on each GPU", least=1, resume="free")
    seed: int = option(0, "every random choice is a function of this seed and a position", least=0)
    mixed_precision: str = option(
        "auto",
        "arithmetic of the model; auto = bf16 where the GPU can, else fp16, and none on a CPU",
        choices=("auto", "no", "bf16", "fp16"),
    )


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """tracker"""

    tracker: str = option(
        None,
        "where curves, pictures and versions go besides the disk",
        none="wandb if there is a key, else none",
        choices=("none", "wandb", "trackio", "tensorboard"),
        resume="free",
    )
    wandb_key: str = option(
        None,
        "key of a wandb account, turns wandb on; safer in the environment as WANDB_API_KEY",
        none="WANDB_API_KEY",
        saved=False,
    )
    wandb_project: str = option(
        "book_cover_generation", "project that runs belong to, in wandb and in trackio", resume="free"
    )
    wandb_entity: str = option(None, "user or team in wandb", none="the key's own", resume="free")
    upload: str = option(
        "all",
        "what wandb and trackio get besides curves and previews: all = versions and the training state",
        choices=("all", "versions", "none"),
        resume="free",
    )


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """drawing"""

    steps: int = option(25, "sampling steps for each cover", least=1)
    guidance_scale: float = option(7.5, "classifier-free guidance scale; 1 = off", least=1)
    scheduler: str = option("dpm++", "sampler", choices=("dpm++", "ddim", "pndm", "euler"))
    num_samples: int = option(4, "held-out books in previews and in the grid", least=1, resume="free")
    vae_tiling: bool = option(
        False,
        "decode covers in overlapping tiles: less memory for large ones, pixels differ slightly",
        resume="free",
    )


@dataclass(frozen=True, kw_only=True)
class FidOptions:
    """score"""

    fid_stats_path: str = option("fid_stats.npz", "file with the statistics of real covers")
    fid_features: str = option(
        "inception",
        "inception = the official FID network; efficientnet = ImageNet weights from pip, works offline, not FID",
        choices=("inception", "efficientnet"),
    )
    fid_weights: str = option(None, "file with the official FID Inception weights", none="downloaded by pytorch-fid")
    fid_resize: str = option(
        "clean", "clean = antialiased; legacy = as pytorch-fid does, to six digits", choices=("clean", "legacy")
    )
    fid_batch_size: int = option(50, "images that go through the feature network at once", least=1)
    split: str = option("test", "rows of the data folder to use", choices=("train", "test", "all"))


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(TrackingOptions, DrawingOptions, ModelOptions, BucketOptions):
    """training"""

    run_id: str = option(None, "the run to resume", none="start a new run", saved=False)
    run_name: str = option(None, "id for the new run", none="made from date and time", saved=False)
    preset: str = option(
        None,
        "flags that fit a card with so much memory at 512x768, where they are not given; those that it sets are "
        "printed. 6gb and 8gb need a GPU that computes in bf16, such as an RTX 30xx or later",
        none="the defaults",
        choices=tuple(PRESETS),
        saved=False,
    )
    train_unet: bool = option(False, "fine-tune the UNet")
    train_text_encoder: bool = option(True, "fine-tune the CLIP text encoder")
    num_examples: int = option(None, "covers to train on, the first of the stable order", none="all", least=1)
    epochs: int = option(1, "passes over the training covers", least=1, resume="free")
    max_steps: int = option(
        None, "optimizer updates after which to stop", none="as many as --epochs makes", least=1, resume="free"
    )
    grad_acc_steps: int = option(
        1, "batches whose gradients are averaged into one optimizer update", least=1, resume="free"
    )
    lr: float = option(1e-5, "learning rate of the UNet", above=0)
    lr_text_encoder: float = option(1e-5, "learning rate of the text encoder", above=0)
    lr_scheduler: str = option(
        "constant",
        "learning-rate schedule, counted in optimizer updates",
        choices=("constant", "constant_with_warmup", "linear", "cosine"),
    )
    warmup_steps: int = option(0, "optimizer updates of linear warm-up (not with 'constant')", least=0)
    optimizer: str = option(
        "adamw8bit",
        "8-bit AdamW of bitsandbytes, or plain AdamW; paged = moments may leave a full GPU; adafactor = hardly any",
        choices=("adamw8bit", "adamw", "paged_adamw8bit", "adafactor"),
    )
    weight_decay: float = option(0.01, "decoupled weight decay", least=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm, over all trained parts", above=0)
    fused_backward: bool = option(
        False,
        "update each weight inside the backward pass and drop its gradient, so that gradients are never all in memory. "
        "--max_grad_norm then bounds the gradient of each weight by itself; one batch makes an update",
    )
    weights_dtype: str = option(
        "fp32",
        "precision of the weights that learn; bf16 rounds each update stochastically and computes in bf16",
        choices=("fp32", "bf16"),
    )
    ema_decay: float = option(
        None,
        "versions, previews and validation take a moving average of the weights; 0.999 spans the last 1000 updates",
        none="the weights themselves",
        above=0,
        most=0.99999,
    )
    ema_device: str = option(
        "auto",
        "where the average is kept, in fp32; auto = with the weights; cpu = not on the GPU, a copy for each update",
        choices=("auto", "cpu"),
        resume="free",
    )
    snr_gamma: float = option(
        None, "min-SNR-gamma weighting of the loss, arXiv:2303.09556; 5 is usual", none="every timestep alike", above=0
    )
    caption_dropout: float = option(
        0.1, "share of prompts left empty, so that guidance has an unconditional model", least=0, most=1
    )
    cache_latents: bool = option(
        False,
        "compute once what the autoencoder makes of each cover, and keep it in --cache_dir (98 KB a cover at 512x768, "
        "half precision): training then reads no pictures, and the autoencoder leaves the GPU",
    )
    grad_ckpt: bool = option(True, "recompute activations in the backward pass to save memory", resume="free")
    save_every: int = option(500, "optimizer updates between saved versions", least=1, resume="free")
    validate_every: int = option(
        250,
        "optimizer updates between validation losses; each version that is due gets one, too",
        least=1,
        resume="free",
    )
    sample_every: int = option(500, "optimizer updates between preview covers; 0 = none", least=0, resume="free")
    keep_versions: int = option(
        3, "versions that stay besides 'best' and 'latest', newest first", least=0, resume="free"
    )
    save_dtype: str = option(
        "auto",
        "precision of the weights in saved versions; auto = that of --mixed_precision. An exact resume never needs "
        "them: the training state holds the weights as they learn",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    validation_rows: int = option(64, "held-out covers in the validation loss", least=1)
    plan: bool = option(
        False,
        "say what GPU memory these options will need, and train nothing; no data, no GPU and no weights are needed",
        saved=False,
    )
    json: bool = option(False, "with --plan: one JSON object instead of a table", saved=False)
    vram_gb: float = option(
        None,
        "with --plan: memory of the GPU, in GiB",
        none="that of the GPU here, else of --preset, else 12",
        above=0,
        saved=False,
    )


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(TrackingOptions, FidOptions, DrawingOptions, ModelOptions, DataOptions):
    """inference"""

    run_id: str = option(None, "the run whose version is loaded", none="the newest run in --output_dir", saved=False)
    version: str = option("latest", "v0 = the pretrained start, v1 ..., latest, best, or a folder", saved=False)
    save_dir: str = option(None, "folder for the pictures", none="'covers' in the run's folder")
    prompt: str = option(None, "draw this one cover", none="a grid: prompt templates x held-out books")
    calc_fid: bool = option(False, "draw --num_imgs covers of --split and score them against --fid_stats_path")
    num_imgs: int = option(None, "covers to draw for the score, the first of the stable order", none="all", least=1)
    metrics: str = option("all", f"what --calc_fid measures, separated by commas: all, or some of {', '.join(METRICS)}")
    clip_model: str = option(
        None, "hub id or folder of a CLIP model, for the metric clip", none="that metric is left out", saved=False
    )


@dataclass(frozen=True, kw_only=True)
class StatsOptions(FidOptions, DataOptions):
    """statistics"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(TrackingOptions, DrawingOptions, ModelOptions, DataOptions):
    """report"""

    run_id: str = option(None, "runs to show, separated by commas", none="the newest run in --output_dir", saved=False)
    version: str = option(
        "v0,best,latest", "versions to show of each run, separated by commas; RUN:VERSION names one of another run"
    )
    save_dir: str = option(
        None,
        "folder for the covers that are shown",
        none="'covers' in each run's folder; of several runs, a folder for each in it",
    )
    report_path: str = option("report.html", "the page to write")
    mixed: bool = option(False, "show versions side by side although they were scored with different settings")


@dataclass(frozen=True, kw_only=True)
class RunsOptions(TrackingOptions):
    """runs"""

    output_dir: str = option("runs", "folder where runs live")
    run_id: str = option(None, "just this run", none="all")
    publish: bool = option(False, "bring to the tracker what it has missed of --run_id")
    prune: bool = option(
        False, "delete from wandb the versions and states of --run_id that its list and aliases no longer name"
    )


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(BucketOptions):
    """check"""

    pretrained_model: str = option(
        "tiny", "whose tokenizer counts the prompts' tokens: a hub id or folder; 'tiny' = the built-in toy tokenizer"
    )


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """doctor"""

    output_dir: str = option("runs", "folder where runs live", resume="free")
    cache_dir: str = option(
        None, "folder for derived files", none="the user's cache folder, ~/.cache/book-covers", resume="free"
    )


# ---------------------------------------------------------------------------------------------------------------------
# What options mean


def to_json(options):
    """The options as a dict for config.json, less those that name a run."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.metadata["saved"]}


def parse_size(text):
    """'512x768' or '512' -> (width, height) in pixels. ValueError unless both are multiples of 8, 32 to 4096."""
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", str(text).strip())
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(32 <= side <= 4096 and side % 8 == 0 for side in (width, height)):
        raise ValueError("expected WIDTHxHEIGHT or one number, multiples of 8 from 32 to 4096, such as 512x768")
    return width, height


def size(options):
    """(width, height) of covers in pixels."""
    return parse_size(options.resolution)


def cache_path(options):
    """Path of the folder for derived files, whether it is there or not."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(options.cache_dir or pathlib.Path(base) / "book-covers").expanduser()


def cache_dir(options):
    """Path of the folder for derived files, made when needed. UserError if it can't be made."""
    folder = cache_path(options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"can't make the cache folder {folder}: {problem}; choose another with --cache_dir") from None
    return folder


def words(text):
    """What stands between the commas of a list, in its order, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def chosen_metrics(options):
    """Those of METRICS that --metrics asks for, in the order of METRICS. UserError for anything else."""
    wanted = words(options.metrics)
    for word in wanted:
        if word not in ("all", *METRICS):
            raise UserError(f"--metrics {word}: expected all, or some of {', '.join(METRICS)}, separated by commas")
    if not wanted:
        raise UserError(f"--metrics: name at least one of {', '.join(METRICS)}, or all")
    return [name for name in METRICS if "all" in wanted or name in wanted]


STORES = ("wandb", "trackio")  # trackers that also keep versions


def tracker(options):
    """Name of the tracker: none, wandb, trackio or tensorboard."""
    name = options.tracker or ("wandb" if os.environ.get("WANDB_API_KEY") else "none")
    return "none" if name == "wandb" and os.environ.get("WANDB_MODE") == "disabled" else name


def num_workers(options):
    """How many threads or processes read images."""
    return min(8, os.cpu_count() or 1) if options.num_workers is None else options.num_workers


SCRIPTS = {
    TrainingOptions: "training",
    InferenceOptions: "sd_inference",
    StatsOptions: "precalc_fid_stats",
    ReportOptions: "report",
    RunsOptions: "runs",
    DatasetOptions: "dataset",
    DoctorOptions: "doctor",
}


def preset_gb(preset):
    """GB of the card that a preset is for."""
    return float(preset.removesuffix("gb"))


def preset_options(preset, given, known):
    """{flag: value}: what a preset sets of the flags that are `known`, beside those that were `given`."""
    return {name: value for name, value in PRESETS[preset].items() if name in known and name not in given}
