"""The GPU memory that a configuration needs, before it starts.

The update itself is traced, with no GPU and no memory: the networks are built from their architecture, on torch's fake
tensors, which have shapes and types but no values. The functions that training calls (losses.Objective, update.py, the
optimizer that optimizers.make makes) run on them, while LiveBytes counts the bytes of all tensors alive. Fake tensors
of a GPU need its driver in the backward pass, so these are the CPU's; where torch works differently on a GPU,
device_rules corrects for it.

CUDA_CONTEXT is an allowance for what no trace of tensors can see. Fragmentation is not in the forecast.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import pathlib
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import config
from common.errors import UserError
from common.files import GIB, read_json, write_json
from data import buckets
from diffusion import architecture as architectures
from diffusion import encoding, tiny
from diffusion.ema import EMA, ema_weights
from diffusion.parts import Parts, enable_checkpointing, eval_mode
from diffusion.placement import to_device
from diffusion.trainable import Trainable, set_trainable, trained_parts
from memory import device_rules
from memory.live_bytes import ELSEWHERE, LiveBytes
from trainer import optimizers
from trainer.losses import Objective
from trainer.update import accumulate_gradients, apply_update

# The driver's context, the kernels that are loaded, cuBLAS' and cuDNN's workspaces. 0.27 GiB after the first kernel
# (pytorch/pytorch#86509), "around 400 MB" in use (pytorch/pytorch#109888), with kernels loaded when first needed
CUDA_CONTEXT = int(0.45 * GIB)
KINDS = ("weights", "gradients", "optimizer", "activations")  # weights: and their average; activations: all other

ROOMS = ("common", "data", "diffusion", "memory", "trainer")  # packages whose code the trace depends on
LIBRARIES = ("torch", "diffusers", "transformers", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class Forecast:
    """The highest moment of each phase of a run."""

    phases: dict  # "encoding", "training", "validation", "sampling" -> {kind: bytes}; the first, for cached latents
    context: int  # bytes beside all tensors

    def total(self, phase):
        """Bytes at the highest moment of a phase."""
        return sum(self.phases[phase].values()) + self.context

    @property
    def worst(self):
        """Name of the phase that needs most."""
        return max(self.phases, key=self.total)

    @property
    def peak(self):
        """Bytes."""
        return self.total(self.worst)

    @property
    def parts(self):
        """{kind: bytes} at the peak, with the context."""
        return {**self.phases[self.worst], "context": self.context}


# ---------------------------------------------------------------------------------------------------------------------
# A forecast, kept


def forecast_memory(options, architecture, device="cuda"):
    """The Forecast of a run with these options on a "cuda" or a "cpu" device; seconds, or at once if it is kept."""
    path = config.cache_dir(options) / "plans" / f"{cache_key(options, architecture, device)}.json"
    phases = read_cached(path)
    if phases is None:
        phases = trace(options, architecture, device)
        with contextlib.suppress(UserError):  # a full or read-only disk: it is traced again the next time
            write_json(path, phases)
    return Forecast(phases, CUDA_CONTEXT if device == "cuda" else 0)


def read_cached(path):
    """The phases in a file, or None if it is not there or damaged."""
    with contextlib.suppress(UserError):
        phases = read_json(path)
        sizes = [kinds.get(kind) for kinds in phases.values() if isinstance(kinds, dict) for kind in KINDS]
        if "training" in phases and len(sizes) == len(KINDS) * len(phases) and all(isinstance(n, int) for n in sizes):
            return phases
    return None


def cache_key(options, architecture, device):
    """Name of what is kept: a hash over all that the trace depends on, the code included."""
    settings = config.memory_settings(options) | {"mixed_precision": precision_on(device, options)}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    code = [path.read_text(encoding="utf-8") for path in code_files()]
    everything = json.dumps([settings, architecture, device, versions, code], sort_keys=True)
    return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()


def code_files():
    """The source files whose code the trace runs, or that decide which: rooms below and beside this one."""
    root = pathlib.Path(__file__).parent.parent
    return [root / "config.py", *sorted(path for room in ROOMS for path in (root / room).glob("*.py"))]


def precision_on(device, options):
    """'half' or 'no': what --mixed_precision comes to there. fp16 and bf16 take the same memory."""
    if options.weights_dtype == "bf16":
        return "half"
    auto = {"cuda": "half", "cpu": "no"}[device]
    return {"auto": auto, "no": "no"}.get(options.mixed_precision, "half")


# ---------------------------------------------------------------------------------------------------------------------
# The trace


def trace(options: config.TrainingOptions, architecture: dict[str, Any], device: str) -> dict[str, dict[str, int]]:
    """{phase: {kind: bytes}}: each phase of a run at its highest moment, when the optimizer has its states already."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # the caller says it in one line
    fakes = FakeTensorMode(allow_non_fake_inputs=True)  # the noise schedule's few numbers are real
    run = build_run(options, architecture, device, fakes)
    workspace = device_rules.cpu_workspace if device == "cpu" else None
    live, highest = LiveBytes(device_rules.ROUNDING[device], workspace), {}
    count_gradients(run.trainable, live)
    run.optimizer = optimizers.make(options, run.trainable, run.accelerator)  # its hooks may drop gradients: after ours
    parts = run.parts

    def measure(name: str, phase: Callable[[], None]) -> None:
        live.restart()
        phase()
        highest[name] = {kind: live.at_peak.get(kind, 0) for kind in KINDS}

    with fakes, live, device_rules.like_cuda() if device == "cuda" else contextlib.nullcontext():
        # The autoencoder, alone if latents are cached; it comes back for previews
        live.mark(tensors_of(parts.vae), "weights")
        if options.cache_latents:
            measure("encoding", lambda: encode(run))
            live.mark(tensors_of(parts.vae), "weights" if device == "cpu" else ELSEWHERE)
        live.mark([*tensors_of(parts.text_encoder), *tensors_of(parts.unet)], "weights")
        if options.ema_decay and (options.ema_device == "auto" or device == "cpu"):
            run.ema = EMA(run.trainable, options.ema_decay)
            live.mark([average for _, average in run.ema.pairs()], "weights")
        make_states(run, live)
        measure("training", lambda: update(run))
        measure("validation", lambda: validate(run))
        if options.sample_every:
            live.mark(tensors_of(parts.vae), "weights")
            measure("sampling", lambda: sample(run, at_once=1 if device == "cpu" else options.num_samples))
    return highest


@dataclass
class FakeRun:
    """What trainer.session.Session holds, on fake tensors, as far as its functions are traced."""

    options: config.TrainingOptions
    accelerator: Any
    parts: Parts
    trainable: Trainable
    objective: Objective
    optimizer: optimizers.Optimizer | None = None
    ema: EMA | None = None


def build_run(
    options: config.TrainingOptions, architecture: dict[str, Any], device: str, fakes: FakeTensorMode
) -> FakeRun:
    """A run without its optimizer: networks on fake tensors, placed and frozen as training has them."""
    half = precision_on(device, options) == "half"
    trained = trained_parts(options)
    with torch.device("meta"):
        parts = architectures.build(architecture)
    parts.scheduler = tiny.build_scheduler()
    trainable = set_trainable(parts, trained)
    if options.grad_ckpt:
        enable_checkpointing(parts, trained)
    to_device(parts, "meta", "bf16" if half else "no", trained, options.weights_dtype)
    with fakes:
        for network in (parts.text_encoder, parts.vae, parts.unet):
            network.to_empty(device="cpu")
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=half),
        backward=lambda loss: loss.backward(),
        scaler=None,
        prepare=lambda optimizer: optimizer,
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )
    objective = Objective(
        parts, parts.noise_scheduler, accelerator.device, accelerator.autocast, options.seed, options.snr_gamma
    )
    return FakeRun(options, accelerator, parts, trainable, objective)


def count_gradients(trainable: Trainable, live: LiveBytes) -> None:
    """Have the gradients of trained weights counted as such, from the moment they are there."""

    def mark_gradient(p: torch.Tensor) -> None:
        if p.grad is not None:
            live.mark([p.grad], "gradients")

    for p in trainable.parameters():
        p.register_post_accumulate_grad_hook(mark_gradient)


def tensors_of(network):
    """Parameters and buffers."""
    return [*network.parameters(), *network.buffers()]


def make_states(run, live):
    """A step for gradients of 0, as in a short update that has no batch: the optimizer has its states from now on."""
    for group in run.optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # as the learning rates' schedule sets it
    run.optimizer.begin(0, 1.0)
    (sum(p.sum() for p in run.optimizer.parameters) * 0).backward()
    run.optimizer.clip()
    run.optimizer.step()
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    live.mark([value for value in states if isinstance(value, torch.Tensor)], "optimizer")


def encode(run):
    """A cover of latents.encode."""
    width, height = largest(run.options)
    with run.accelerator.autocast():
        torch.cat(encoding.posterior(run.parts.vae, torch.empty(1, 3, height, width))).half()


def largest(options):
    """(width, height) of the largest pictures that training meets."""
    return max(buckets.bucket_sizes(config.size(options)), key=math.prod) if options.buckets else config.size(options)


def denoise(run: FakeRun, batch_size: int) -> torch.Tensor:
    """The losses of a batch."""
    width, height = size = largest(run.options)
    latent_shape = encoding.latent_shape(run.parts, size)
    positions = run.parts.text_encoder.config.max_position_embeddings
    if run.options.cache_latents:
        pictures = {"moments": torch.empty(batch_size, 2, *latent_shape, dtype=torch.float16)}
    else:
        pictures = {"pixel_values": torch.empty(batch_size, 3, height, width)}
    return run.objective.losses(
        {**pictures, "input_ids": torch.zeros(batch_size, positions, dtype=torch.int64)},
        torch.empty(batch_size, *latent_shape),
        torch.empty(batch_size, *latent_shape),
        torch.zeros(batch_size, dtype=torch.int64),
        run.options.snr_gamma,
    )


def update(run: FakeRun) -> None:
    """An optimizer update, as loop.run_update makes it; from its second batch on there are gradients already."""
    run.optimizer.begin(0, 1.0)
    batches = min(2, run.options.grad_acc_steps)
    batch_losses = (denoise(run, run.options.batch_size) for _ in range(batches))
    accumulate_gradients(run.accelerator, batch_losses, batches * run.options.batch_size)
    run.optimizer.clip()
    apply_update(run.optimizer, run.ema, step=0)


def validate(run: FakeRun) -> None:
    """A batch of validation.validate."""
    with ema_weights(run.ema), eval_mode(run.parts):
        denoise(run, min(run.options.batch_size, run.options.validation_rows))


def sample(run, at_once):
    """The networks' work in training.preview, for `at_once` covers. The samplers look at values, which fake tensors
    have not; what they keep beside are a few latents, a thousandth of the rest.

    In inference mode, as sampling.draw: autocast then keeps no cast weights, which under no_grad it does.
    """
    parts, options = run.parts, run.options
    rows = at_once * (2 if options.guidance_scale > 1 else 1)
    latent_shape = encoding.latent_shape(parts, config.size(options))
    positions = parts.text_encoder.config.max_position_embeddings
    averaged, evaluating = ema_weights(run.ema), eval_mode(parts)
    with averaged, evaluating, run.accelerator.autocast(), torch.inference_mode():
        prompt_embeds = encoding.encode_text(parts.text_encoder, torch.zeros(rows, positions, dtype=torch.int64))
        latents = torch.empty(rows, *latent_shape, dtype=parts.unet.dtype)
        timestep = torch.zeros((), dtype=torch.int64)
        latents = parts.unet(latents, timestep, prompt_embeds.to(parts.unet.dtype), return_dict=False)[0]
        encoding.decode_latents(parts.vae, latents[:at_once], options.vae_tiling)
