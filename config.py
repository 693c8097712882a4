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
    choices: Sequence[str] | Sequence[int] | None = None,
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
        choices: the values that are allowed; ge, gt, le: bounds of a number (>=, >, <=)
        normalize: function that returns the usual form of a text; it raises ValueError for a wrong one
        aliases: other names that are accepted on the command line and in --config
        positional: it is a word of its own on the command line, without --name
    Runs:
        resume: "free" if it may change when a run is resumed, "fixed" if that would contradict what is already trained
        saved: whether it is in config.json; not what names a run, nor what concerns one call of the script
        secret: its value is never printed or read from a file
        path: whether it names a folder or file, saved as an absolute path; a hub id that could be one stays as it is
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
    # Without fused_backward the gradients of both parts leave less than a fifth of the GPU for fragmentation
    "12gb": dict(
        batch_size=4,
        optimizer="adamw8bit",
        fused_backward=True,
        grad_ckpt=True,
        cache_latents=True,
        ema_device="cpu",
    ),
    "24gb": dict(batch_size=8, optimizer="adamw", grad_ckpt=True, cache_latents=True),
    # The free GPU of Colab and Kaggle: no bf16, so that --mixed_precision auto computes in fp16, and a slow machine
    # around it: the average stays on the GPU
    "t4": dict(batch_size=4, optimizer="adamw8bit", grad_ckpt=True, cache_latents=True, vae_tiling=True),
}
PRESET_GIB = {"6gb": 6.0, "8gb": 8.0, "12gb": 12.0, "24gb": 24.0, "t4": 14.7}  # memory of the GPU, as CUDA tells it
# The same with --lora_rank, where gradients and moments are small: the memory goes to batches, and where there is more,
# to speed, as collections may be small: no activations are computed twice
LORA_PRESETS: dict[str, dict[str, Any]] = {
    "6gb": dict(batch_size=4, optimizer="adamw", grad_ckpt=True, cache_latents=True),
    "8gb": dict(batch_size=8, optimizer="adamw", grad_ckpt=True, cache_latents=True),
    "12gb": dict(batch_size=16, optimizer="adamw", grad_ckpt=True, cache_latents=True),
    "24gb": dict(batch_size=8, optimizer="adamw", grad_ckpt=False, cache_latents=True),
    "t4": dict(batch_size=4, optimizer="adamw", grad_ckpt=True, cache_latents=True),
}
# What --lora_rank sets, too: an adapter begins at 0 and is scaled, and takes larger steps than the weights themselves
LORA_DEFAULTS = dict(lr=1e-4, lr_text_encoder=5e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Options. A class is a group in --help, and its docstring the heading of the group.

METRICS = ("fid", "kid", "precision", "memorisation", "legibility", "clip")  # of covers, choices of --metrics
MODEL_METRICS = ("entanglement",)  # of the version itself; choices, too, but not in "all"
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


TYPESET: dict[str, Any] = dict(
    default=False,
    help="besides, set title and author as type on an enlarged copy of each cover, in the folder 'typeset' beside "
    "them; scores are those of the covers without it",
    affects="nothing",
    memory=False,
)

LAYOUT: dict[str, Any] = dict(
    default="rule",
    help="of a version with lettering: where the letters of title and author stand that it draws from; rule = as type "
    "is set on covers; like = as on a training cover whose title is about as long, by OCR; or a JSON file with lines "
    "and their places (docs/lettering.md)",
    affects="drawing",
    memory=False,
)

NEGATIVE_PROMPT: dict[str, Any] = dict(
    default=None,
    help="what covers should not show: takes the place of the empty prompt in classifier-free guidance",
    none="the empty prompt",
    affects="drawing",
    memory=False,
)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """data"""

    data_root: str = book_option(
        "../book_dataset",
        "data folder: pictures each with a .txt caption of the same name; or pictures with metadata.csv or "
        "metadata.jsonl (columns file_name, text); or the layout of Goodreads best books (docs/data.md). 'demo' = "
        "invented books with covers drawn by code",
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
        "fraction of the books or pictures to hold out as the test split, if the data folder has no df_train.csv and "
        "df_test.csv, or folders train and test",
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
    allow_unpaired: bool = option(
        False,
        "leave out pictures that have no usable caption, and captions without a picture, however many; without it more "
        "than a tenth of them are an error (docs/data.md)",
        resume="free",
        inherited=True,
        affects="nothing",  # it only permits, as above
        memory=False,
    )
    include_desc: bool = book_option(
        False, "append the description to the prompt, as much of it as fits into --max_tokens"
    )
    max_tokens: int = drawing_option(
        77,
        "length of prompts, in tokens. 77 = what CLIP reads at once; 150 and 225 = two and three chunks of 75, which "
        "the text encoder reads one by one, and the UNet all together, as A1111 and ComfyUI do it; takes more memory "
        "and time. A model that reads another number at once gets one, two or three chunks of its own length",
        choices=(77, 150, 225),
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
        "Hugging Face model id, local folder of a Stable Diffusion 1.x pipeline, or a whole model in one .safetensors "
        "file, as A1111 and ComfyUI use it; 'mini' = the bundled miniature for 128x192, which trains on a CPU; "
        "'tiny' = a toy for tests; 'sd15-random' = the architecture of Stable Diffusion 1.5 with random weights, for "
        "--plan and benchmarks",
        path="if it exists",
        affects="nothing",  # the hash of a version's weights is compared
        memory=False,  # a forecast is stored by its architecture
    )
    clip_skip: int = drawing_option(
        1,
        "layer of the text encoder whose output the UNet gets, counted from the last as in A1111 and kohya: 1 = the "
        "last, as Stable Diffusion 1.x was trained; 2 = the one before, as many models of drawn pictures were",
        ge=1,
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
    prediction_type: str = option(
        "auto",
        "what the UNet predicts: the noise (epsilon) or v; auto = what the model says of itself. A single file of "
        "Stable Diffusion 2.x that does not say it needs this option; a model of epsilon can be trained to predict v, "
        "which takes thousands of updates of the UNet",
        choices=("auto", "epsilon", "v_prediction"),
        inherited=True,
        affects="drawing",
        memory=False,
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
        "printed. 6gb, 8gb and 12gb need a GPU with bf16, such as RTX 30xx or later, unless --lora_rank is given; t4 = "
        "a T4, as Colab has it for free",
        none="no preset",
        choices=tuple(PRESETS),
        saved=False,
        memory=False,
    )
    train_unet: bool = option(False, "fine-tune the UNet")
    train_text_encoder: bool = option(True, "fine-tune the CLIP text encoder")
    train_lettering: bool = option(
        False,
        "teach the model to draw title and author where a glyph page says: a small network beside the UNet, which "
        "learns from the letters that OCR finds on the training covers (docs/lettering.md). It works best with "
        "--train_unet True",
    )
    letter_loss_weight: float = option(
        5.0,
        "weight of the training loss where a cover has letters, in a model with lettering; 1 = as everywhere",
        ge=1,
        le=100,
        memory=False,
    )
    lora_rank: int | None = option(
        None,
        "train LoRA adapters of this rank (arXiv:2106.09685) in the parts that learn, by --train_unet and "
        "--train_text_encoder, and leave the model itself as it is: less memory, and versions of a few MB. 4 to 32 are "
        "usual",
        none="full fine-tuning",
        ge=1,
    )
    lora_alpha: float | None = option(
        None,
        "with --lora_rank: adapters count alpha / rank, in training and in the saved file",
        none="the rank, which makes that 1",
        gt=0,
        memory=False,
    )
    lora_targets: str = option(
        "attention",
        "with --lora_rank: layers that get an adapter; attention = its projections; all = also feed-forward layers and "
        "the projections into and out of the UNet's transformers; all+conv = also the UNet's other convolutions",
        choices=("attention", "all", "all+conv"),
    )
    lora_dropout: float = option(
        0.0, "with --lora_rank: fraction of each adapter's inputs set to 0 at random in training", ge=0, le=0.9
    )
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
    lr: float = option(
        1e-5,
        f"learning rate of the UNet; with --lora_rank {LORA_DEFAULTS['lr']:g} unless it is given",
        gt=0,
        memory=False,
        learning_rate_of="unet",
    )
    lr_text_encoder: float = option(
        1e-5,
        f"learning rate of the text encoder; with --lora_rank {LORA_DEFAULTS['lr_text_encoder']:g} unless it is given",
        gt=0,
        memory=False,
        learning_rate_of="text_encoder",
    )
    lr_lettering: float = option(
        1e-4,
        "learning rate of the lettering network, which begins at 0 and takes larger steps than weights that are "
        "trained already; also with --lora_rank",
        gt=0,
        memory=False,
        learning_rate_of="lettering",
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
    debiased_loss: bool = option(
        False,
        "weight the loss by 1/sqrt(SNR), for v-prediction by sqrt(SNR)/(SNR+1) (arXiv:2310.08442): more of the noisy "
        "timesteps, which decide on composition; not with --snr_gamma",
    )
    loss: str = option(
        "mse",
        "loss of training; huber = pseudo-Huber (arXiv:2403.16728), on which single bad covers have less effect. The "
        "validation loss is always the plain mean squared error, without weights and noise offset",
        choices=("mse", "huber"),
    )
    huber_c: float = option(
        0.1,
        "with --loss huber: errors smaller than this count squared, larger ones by their absolute value; above about "
        "10 it is mse",
        gt=0,
        memory=False,
    )
    noise_offset: float = option(
        0.0,
        "add this times one normal number for each cover and channel to the noise, usually 0.05 to 0.1: covers can "
        "then become darker or lighter as a whole",
        ge=0,
        le=1,
        memory=False,
    )
    decorrelate: float = option(
        0.0,
        "weight of a term of the loss that keeps titles out of the text encoder's states of genres: for 64 more "
        "prompts an update, the partial distance correlation (Annals of Statistics 42, 2014) of the states of title "
        "and genres, beyond what the genres explain; 0.03 to 1 on mini. It takes no pass of the UNet. Needs "
        "--train_text_encoder True and 64 books with genres; --metrics entanglement of sd_inference measures the "
        "effect; 0 = without it",
        ge=0,
        memory=bool,
    )
    decorrelate_by: str = option(
        "correlation",
        "with --decorrelate: what the term is; correlation = as there; alone = mean squared error between the states "
        "of the genres' tokens behind the title and those of the same tokens without a title",
        choices=("correlation", "alone"),
        memory=False,
    )
    zero_terminal_snr: bool = option(
        False,
        "rescale the noise schedule so that the last timestep is noise alone (arXiv:2305.08891), for very dark and "
        "very light covers; needs a model that predicts v, or --prediction_type v_prediction and long training. v0 is "
        "still drawn as the pretrained model is",
        memory=False,
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
    cache_text: bool = option(
        False,
        "with --train_text_encoder False: encode each prompt once, and store the result in --cache_dir. Losses stay "
        "the same, and the text encoder leaves the GPU. A prompt takes 118 KB with --mixed_precision bf16 or fp16, "
        "twice that with no, and as much again for each further chunk of --max_tokens; a book has up to 5 prompts, so "
        "50,000 books need 30 GB",
        aliases=("cache_text_encoder_outputs",),
        resume="free",
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
        None, "draw --num_images covers from this prompt", none="a grid: prompt templates x held-out books"
    )
    prompts_file: str | None = option(
        None,
        "draw --num_images covers from each line of this text file (UTF-8), and sheets that show them side by side; "
        "empty lines and lines that begin with # are skipped. Covers that are there already are not drawn again",
        none="no file",
    )
    num_images: int = option(
        1,
        "with --prompt or --prompts_file: covers to draw from each prompt. Each starts from other noise, a function of "
        "--seed and its number: the same for every prompt and version, so that those can be compared",
        ge=1,
        le=256,
    )
    negative_prompt: str | None = option(**NEGATIVE_PROMPT)
    title: str | None = option(
        None,
        "with --prompt: title of the book, whose letters a version with lettering draws; also what --typeset True sets",
        none="no letters",
    )
    author: str | None = option(None, "with --title: author of the book", none="no author")
    layout: str = option(**LAYOUT)
    calc_fid: bool = option(
        False, "draw a cover for --num_imgs books of --split, and score them against --fid_stats_path"
    )
    num_imgs: int | None = option(
        None,
        "with --calc_fid: number of covers to draw and score: the first ones of a fixed random order",
        none="all",
        ge=1,
    )
    metrics: str = option(
        "all",
        f"with --calc_fid: all, or some of {', '.join(METRICS)}, separated by commas; also {', '.join(MODEL_METRICS)}, "
        "which is not in all: how far titles go into genres and into the whole picture (docs/scores.md)",
    )
    clip_model: str | None = option(
        None,
        "with --calc_fid: Hugging Face model id or folder of a CLIP model, for the metric clip",
        none="none, and clip is skipped",
        saved=False,
    )
    lora: str | None = option(
        None,
        "LoRA file (.safetensors, of this project or any other tool) that is merged into the version, for these covers "
        "only",
        none="none",
        affects="drawing",
        memory=False,
    )
    lora_scale: float = option(
        1.0,
        "factor of the LoRA: of --lora if that is given, else of the one that a LoRA run has trained; 0 = without it",
        ge=-100,
        le=100,
        affects="drawing",
        memory=False,
    )
    typeset: bool = option(**TYPESET)


@dataclass(frozen=True, kw_only=True)
class StatsOptions(FidOptions, DataOptions):
    """statistics"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(TypeOptions, TrackingOptions, DrawingOptions, ModelOptions, DataOptions):
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
    negative_prompt: str | None = option(**NEGATIVE_PROMPT)
    layout: str = option(**LAYOUT)
    report_path: str = option("report.html", "HTML file to write")
    typeset: bool = option(**TYPESET)
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


@dataclass(frozen=True, kw_only=True)
class ExportOptions(TrackingOptions):
    """export"""

    target: str | None = option(
        None,
        "file or folder to write; for one file also the folder it goes to, named RUN-VERSION.safetensors",
        none="none",
        positional=True,
    )
    output_dir: str = option(**OUTPUT_DIR)
    run_id: str | None = option(None, "run whose version is exported", none="the newest run in --output_dir")
    version: str = option("latest", "v0 = the pretrained model, v1, v2, ..., latest, best, or the folder of a pipeline")
    to: str = option(
        "single",
        "single = the whole model in one .safetensors file, for A1111, Forge, ComfyUI; lora = the LoRA file of a LoRA "
        "run, for the same; diffusers = the version's pipeline folder as it is; merged = a pipeline folder in --dtype, "
        "with the LoRA merged into the weights; hub = an upload to the Hugging Face hub",
        choices=("single", "lora", "diffusers", "merged", "hub"),
    )
    dtype: str | None = option(
        None,
        "precision of the exported weights",
        none="fp16; of --to diffusers and hub that of the version",
        choices=("fp16", "bf16", "fp32"),
    )
    overwrite: bool = option(
        False, "replace also files that this script has not made; without it they are an error, and nothing is written"
    )
    repo: str | None = option(None, "with --to hub: repository OWNER/NAME", none="none")
    private: bool = option(False, "with --to hub: make a new repository private")
    dry_run: bool = option(False, "with --to hub: show what would be uploaded, and upload nothing")


SCRIPTS: dict[type[DataclassInstance], str] = {
    TrainingOptions: "training",
    InferenceOptions: "sd_inference",
    StatsOptions: "precalc_fid_stats",
    ReportOptions: "report",
    RunsOptions: "runs",
    DatasetOptions: "dataset",
    DoctorOptions: "doctor",
    TypesetOptions: "typeset",
    ExportOptions: "export",
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
    return path if kind == "always" or os.path.exists(path) else value


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
            found[field.name] = next((os.path.abspath(place) for place in places if os.path.exists(place)), value)
    return found


def is_gone(field: dataclasses.Field[Any], value: Any) -> bool:
    """Whether a saved value is a path where nothing is (any more, or on this machine)."""
    return (
        bool(field.metadata["path"]) and isinstance(value, str) and os.path.isabs(value) and not os.path.exists(value)
    )


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
