"""Memory forecast: the peak GPU memory of a configuration, in each phase of a run, before the run starts.

The training update itself is traced, with no GPU and no memory: the networks are built from their architecture on
torch's meta tensors, which have shapes and types but no values. The very functions that training calls (losses.py,
update.py, optimizers.py) run on them, while LiveBytes counts the bytes of all live tensors. meta_tensors.py makes the
meta device behave as a CPU does, and device_rules.py corrects for what a GPU does differently.

CUDA_CONTEXT is an allowance for what no trace of tensors can see. Fragmentation is not in the forecast.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import pathlib
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.initialization import no_init_weights

import config
from common.errors import UserError
from common.files import GIB, read_json, write_json
from data import buckets
from diffusion import encoding, tiny
from diffusion.architecture import Architecture, build_parts
from diffusion.ema import EMA, ema_weights
from diffusion.lettering import lettering_pages
from diffusion.lora import make_trainable
from diffusion.objective import PLAIN, LossSettings
from diffusion.parts import Parts, enable_checkpointing, eval_mode
from diffusion.placement import to_device
from diffusion.tokens import num_chunks
from diffusion.trainable import Trainable
from memory import device_rules
from memory.live_bytes import OTHER_DEVICE, LiveBytes
from memory.meta_tensors import DEVICE, RememberedShapes, like_a_device
from trainer import optimizers
from trainer.losses import Objective, make_objective
from trainer.update import accumulate_gradients, apply_update

# The driver's context, the loaded kernels, the workspaces of cuBLAS and cuDNN. 0.27 GiB after the first kernel
# (pytorch/pytorch#86509), "around 400 MB" in use (pytorch/pytorch#109888), with kernels loaded when first needed
CUDA_CONTEXT = int(0.45 * GIB)
KINDS = ("weights", "gradients", "optimizer", "activations")  # weights: and their EMA; activations: everything else

# What a trace depends on besides the options: these packages run in it (a test compares), and these libraries
TRACED_PACKAGES = ("common", "data", "diffusion", "memory", "trainer")
LIBRARIES = ("torch", "diffusers", "transformers", "bitsandbytes", "accelerate", "peft")

Phases = dict[str, dict[str, int]]  # "encoding" (with cached latents), "training" ... -> {kind: bytes} at its peak


@dataclass(frozen=True)
class Forecast:
    """The peak memory of each phase of a run: encoding (with cached latents), training, validation, sampling."""

    phases: Phases
    context: int  # bytes beside all tensors

    def total(self, phase: str) -> int:
        """Bytes at the peak of a phase."""
        return sum(self.phases[phase].values()) + self.context

    @property
    def peak_phase(self) -> str:
        """Name of the phase that needs most."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> int:
        """Bytes that the whole run needs."""
        return self.total(self.peak_phase)

    @property
    def breakdown(self) -> dict[str, int]:
        """{kind: bytes} at the peak of the run, with the context."""
        return {**self.phases[self.peak_phase], "context": self.context}


# ---------------------------------------------------------------------------------------------------------------------
# Cached forecasts: <cache_dir>/plans/<key>.json


def forecast_memory(options: config.TrainingOptions, architecture: Architecture, device: str = "cuda") -> Forecast:
    """The Forecast of a run with these options on a "cuda" or a "cpu" device. Takes seconds, unless it is cached."""
    path = config.cache_dir(options) / "plans" / f"{cache_key(options, architecture, device)}.json"
    phases = read_cached(path)
    if phases is None:
        phases = trace(options, architecture, device)
        with contextlib.suppress(UserError):  # a full or read-only disk: it is traced again next time
            write_json(path, phases)
    return Forecast(phases, CUDA_CONTEXT if device == "cuda" else 0)


def read_cached(path: pathlib.Path) -> Phases | None:
    """The phases in a file, or None if it is missing or damaged."""
    with contextlib.suppress(UserError):
        phases = read_json(path)
        sizes = [kinds.get(kind) for kinds in phases.values() if isinstance(kinds, dict) for kind in KINDS]
        if "training" in phases and len(sizes) == len(KINDS) * len(phases) and all(isinstance(n, int) for n in sizes):
            return phases
    return None


def cache_key(options: config.TrainingOptions, architecture: Architecture, device: str) -> str:
    """Name of a cached forecast: a hash of everything that the trace depends on, its code included."""
    precision = "half" if computes_in_half(options, device) else "no"
    settings = config.memory_settings(options) | {"mixed_precision": precision}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    code = [path.read_text(encoding="utf-8") for path in code_files()]
    everything = json.dumps([settings, architecture, device, versions, code], sort_keys=True)
    return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()


def code_files() -> list[pathlib.Path]:
    """Source files of everything of this project that runs in a trace."""
    root = pathlib.Path(__file__).parent.parent
    return [root / "config.py", *sorted(path for name in TRACED_PACKAGES for path in (root / name).glob("*.py"))]


def computes_in_half(options: config.TrainingOptions, device: str) -> bool:
    """Whether a run computes in fp16 or bf16, which take the same memory; --mixed_precision auto does on a GPU."""
    if options.weights_dtype == "bf16":
        return True
    if options.mixed_precision == "auto":
        return device == "cuda"
    return options.mixed_precision != "no"


# ---------------------------------------------------------------------------------------------------------------------
# Tracing


def trace(options: config.TrainingOptions, architecture: Architecture, device: str) -> Phases:
    """{phase: {kind: bytes}}: the peak of each phase of a run, once the optimizer has its moments."""
    if options.optimizer == "paged_adamw8bit":  # as if its moments stayed on the GPU
        options = dataclasses.replace(options, optimizer="adamw8bit")
    workspace = device_rules.cpu_workspace if device == "cpu" else None
    live = LiveBytes(device_rules.ROUNDING[device], workspace, RememberedShapes().call)
    run = build_run(options, architecture, device)  # libraries import modules meanwhile: before functions are replaced
    mark_gradients(run.trainable, live)
    with like_a_device(), device_rules.emulate_cuda_autocast() if device == "cuda" else contextlib.nullcontext():
        run.optimizer = optimizers.make(options, run.trainable, run.accelerator)  # its hooks may drop gradients
        with live:
            return trace_phases(run, live, device)


def trace_phases(run: MetaRun, live: LiveBytes, device: str) -> Phases:
    """{phase: {kind: bytes}}; see `trace`."""
    parts, options, phases = run.parts, run.options, {}

    def measure(name: str, phase: Callable[[], None]) -> None:
        live.reset_peak()
        phase()
        phases[name] = {kind: live.at_peak.get(kind, 0) for kind in KINDS}

    # The autoencoder: while latents are encoded it is alone on the device, and it returns for previews
    live.mark(tensors_of(parts.vae), "weights")
    if options.cache_latents:
        measure("encoding", lambda: encode(run))

    # What training holds all the time
    # While prompts are encoded, the text encoder is alone on the device, where it needs less than the UNet does
    live.mark([tensor for network in parts.networks.values() for tensor in tensors_of(network)], "weights")
    if options.cache_latents and device != "cpu":
        live.mark(tensors_of(parts.vae), OTHER_DEVICE)
    if options.cache_text and device != "cpu":
        live.mark(tensors_of(parts.text_encoder), OTHER_DEVICE)
    if options.ema_decay and (options.ema_device == "auto" or device == "cpu"):
        run.ema = EMA(run.trainable, options.ema_decay)
        live.mark([average for _, average in run.ema.pairs()], "weights")
    allocate_moments(run.optimizer, live)

    measure("training", lambda: update(run))
    measure("validation", lambda: validate(run))
    if options.sample_every:
        live.mark([*tensors_of(parts.vae), *tensors_of(parts.text_encoder)], "weights")
        measure("sampling", lambda: sample(run, num_images=1 if device == "cpu" else options.num_samples))
    return phases


@dataclass
class MetaRun:
    """On meta tensors, the fields of trainer.session.Session that the traced functions use."""

    options: config.TrainingOptions
    accelerator: Any  # stands in for accelerate.Accelerator
    parts: Parts
    trainable: Trainable
    objective: Objective
    optimizer: optimizers.Optimizer | None = None
    ema: EMA | None = None


def build_run(options: config.TrainingOptions, architecture: Architecture, device: str) -> MetaRun:
    """A run without its optimizer: networks on meta tensors, with the precision and gradients that training has."""
    half = computes_in_half(options, device)
    with torch.device(DEVICE), no_init_weights():
        parts = build_parts(architecture)
    parts.scheduler = tiny.build_scheduler()
    encoding.require_clip_skip(parts.text_encoder.config.num_hidden_layers, options.clip_skip)
    trainable = make_trainable(parts, options)
    encoding.freeze_skipped_layers(parts.text_encoder, options.clip_skip)
    if options.grad_ckpt:
        enable_checkpointing(parts, trainable.names)
    to_device(parts, DEVICE, "bf16" if half else "no", trainable.whole, options.weights_dtype)
    accelerator = types.SimpleNamespace(
        device=torch.device(DEVICE),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=half),
        backward=lambda loss: loss.backward(),
        scaler=None,
        prepare=lambda optimizer: optimizer,
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )
    objective = make_objective(parts, options, accelerator, trainable.dropout)
    schedule = objective.noise_scheduler
    schedule.alphas_cumprod = schedule.alphas_cumprod.to(DEVICE)  # not counted: a few numbers
    return MetaRun(options, accelerator, parts, trainable, objective)


def mark_gradients(trainable: Trainable, live: LiveBytes) -> None:
    """Have the gradients of trained weights counted as such as soon as they exist."""

    def mark_gradient(p: torch.Tensor) -> None:
        if p.grad is not None:
            live.mark([p.grad], "gradients")

    for p in trainable.parameters():
        p.register_post_accumulate_grad_hook(mark_gradient)


def tensors_of(network: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers."""
    return [*network.parameters(), *network.buffers()]


def allocate_moments(optimizer: optimizers.Optimizer, live: LiveBytes) -> None:
    """One step with gradients of 0, after which the optimizer has its moments."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # as the learning rate schedule sets it
    optimizer.begin(0, 1.0)
    torch.autograd.backward(optimizer.parameters, [torch.zeros_like(p) for p in optimizer.parameters])
    optimizer.clip()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    live.mark([value for value in moments if isinstance(value, torch.Tensor)], "optimizer")


# ---------------------------------------------------------------------------------------------------------------------
# The phases of a run


def encode(run: MetaRun) -> None:
    """Encode one image, as latent_cache.half_moments does."""
    width, height = largest_size(run.options)
    with run.accelerator.autocast():
        torch.cat(encoding.posterior(run.parts.vae, torch.empty(1, 3, height, width, device=DEVICE))).half()


def largest_size(options: config.TrainingOptions) -> tuple[int, int]:
    """(width, height) in pixels of the largest images that are trained on."""
    return max(buckets.bucket_sizes(config.size(options)), key=math.prod) if options.buckets else config.size(options)


def denoise(run: MetaRun, batch_size: int, settings: LossSettings) -> torch.Tensor:
    """The losses of a batch, float32 (B,)."""
    width, height = size = largest_size(run.options)
    latent_shape = encoding.latent_shape(run.parts, size)
    if run.options.cache_latents:
        images = {"moments": torch.empty(batch_size, 2, *latent_shape, dtype=torch.float16, device=DEVICE)}
    else:
        images = {"pixel_values": torch.empty(batch_size, 3, height, width, device=DEVICE)}
    if run.trainable.dropout:
        run.trainable.dropout.samples = range(batch_size)
    text = {"input_ids": token_ids(run, batch_size)}
    if run.options.cache_text:
        encoder, (count, *chunks) = run.parts.text_encoder, text["input_ids"].shape
        shape = (count, math.prod(chunks), encoder.config.hidden_size)
        text = {"hidden_states": torch.empty(shape, dtype=encoder.dtype, device=DEVICE)}
    page = {} if run.parts.lettering is None else {"page": pages(batch_size, size)}
    return run.objective.losses(
        {**images, **text, **page},
        torch.empty(batch_size, *latent_shape, device=DEVICE),
        torch.empty(batch_size, *latent_shape, device=DEVICE),
        torch.zeros(batch_size, dtype=torch.int64, device=DEVICE),
        settings,
    )


def token_ids(run: MetaRun, count: int) -> torch.Tensor:
    """input_ids int64 (count, N, 77) of prompts in N chunks."""
    positions = run.parts.text_encoder.config.max_position_embeddings
    return torch.zeros(count, num_chunks(run.options.max_tokens), positions, dtype=torch.int64, device=DEVICE)


def pages(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Glyph pages uint8 (count, 1, H, W); size: (width, height)."""
    width, height = size
    return torch.empty(count, 1, height, width, dtype=torch.uint8, device=DEVICE)


def update(run: MetaRun) -> None:
    """An optimizer update, as loop.run_update makes it; from its second batch on, gradients exist already."""
    run.optimizer.begin(0, 1.0)
    batches = min(2, run.options.grad_acc_steps)
    batch_losses = (denoise(run, run.options.batch_size, run.objective.settings) for _ in range(batches))
    accumulate_gradients(run.accelerator, batch_losses, batches * run.options.batch_size)
    run.optimizer.clip()
    apply_update(run.optimizer, run.ema, step=0)


def validate(run: MetaRun) -> None:
    """One batch of validation.validate."""
    with ema_weights(run.ema), eval_mode(run.parts):
        denoise(run, min(run.options.batch_size, run.options.validation_rows), PLAIN)


def sample(run: MetaRun, num_images: int) -> None:
    """One denoising step and the decoding of sampling.draw_images, in inference mode like it.

    (Under no_grad, autocast would keep cast weights.) Samplers look at values, which meta tensors do not have; what
    they hold is a few latents, a thousandth of the rest.
    """
    parts, options = run.parts, run.options
    rows = num_images * (2 if options.guidance_scale > 1 else 1)
    latent_shape = encoding.latent_shape(parts, config.size(options))
    with ema_weights(run.ema), eval_mode(parts), run.accelerator.autocast(), torch.inference_mode():
        prompt_embeds = encoding.encode_text(parts.text_encoder, token_ids(run, rows), options.clip_skip)
        latents = torch.empty(rows, *latent_shape, dtype=parts.unet.dtype, device=DEVICE)
        timestep = torch.zeros((), dtype=torch.int64, device=DEVICE)
        with lettering_pages(parts, pages(num_images, config.size(options))):
            latents = parts.unet(latents, timestep, prompt_embeds.to(parts.unet.dtype), return_dict=False)[0]
        encoding.decode(parts.vae, latents[:num_images], options.vae_tiling)
