"""What a configuration will need of a GPU's memory, known before it starts.

The update itself is traced, with no GPU and no memory: the networks are built from their architecture, on torch's fake
tensors, which have shapes and types but no values. On them run the functions that a run calls (updates.denoising_loss
and all below it, the backward pass, clipping, the optimizer that optimizers.make makes), while LiveBytes counts
the bytes of all tensors alive. Fake tensors of a GPU need its driver in the backward pass, so these are the CPU's, and
what torch does in another way on a GPU is set right here: like_cuda, the allocator's rounding, the optimizer's loops.

What no trace of tensors can see is the allowance CUDA_CONTEXT. Fragmentation is not in the forecast.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import types
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import architecture as architectures
import config
import models
import optimizers
import tiny
import updates
from checkpoint import GIB
from files import read_json, write_json
from live_bytes import LiveBytes

# The driver's context, the kernels that are loaded, cuBLAS' and cuDNN's workspaces. 0.27 GiB after the first kernel
# (pytorch/pytorch#86509), "around 400 MB" in use (pytorch/pytorch#109888), with kernels loaded when first needed
CUDA_CONTEXT = int(0.45 * GIB)
KINDS = ("weights", "gradients", "optimizer", "activations")  # activations: all other tensors
ROUNDING = {"cuda": 512, "cpu": 64}  # bytes; the allocators of torch hand out multiples of them

# Options that change the size of no tensor. All others, and any new one, make another forecast
IRRELEVANT = {
    *("data_root", "cache_dir", "test_fraction", "min_ascii", "include_desc", "summarize_desc", "summarizer"),
    *("num_workers", "pretrained_model", "output_dir", "num_gpus", "seed", "tracker", "wandb_key", "wandb_project"),
    *("wandb_entity", "upload", "steps", "scheduler", "run_id", "run_name", "num_examples", "epochs", "max_steps"),
    *("lr", "lr_text_encoder", "lr_scheduler", "warmup_steps", "weight_decay", "max_grad_norm", "caption_dropout"),
    *("save_every", "validate_every", "keep_versions", "save_dtype", "plan", "json", "vram_gb"),
}
LIBRARIES = ("torch", "diffusers", "transformers", "bitsandbytes", "accelerate")


@dataclass(frozen=True)
class Forecast:
    """The highest moment of each phase of a run."""

    phases: dict  # "training", "validation", "sampling" -> {kind: bytes}
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


def forecast(options, architecture, device="cuda"):
    """The Forecast of a run with these options on a "cuda" or a "cpu" device; seconds, or at once if it is kept."""
    path = config.cache_dir(options) / "plans" / f"{key(options, architecture, device)}.json"
    phases = kept(path)
    if phases is None:
        phases = trace(options, architecture, device)
        write_json(path, phases)
    return Forecast(phases, CUDA_CONTEXT if device == "cuda" else 0)


def kept(path):
    """The phases in a file, or None if it is not there or damaged."""
    with contextlib.suppress(config.UserError):
        phases = read_json(path)
        sizes = [kinds.get(kind) for kinds in phases.values() if isinstance(kinds, dict) for kind in KINDS]
        if "training" in phases and len(sizes) == len(KINDS) * len(phases) and all(isinstance(n, int) for n in sizes):
            return phases
    return None


def key(options, architecture, device):
    """Name of what is kept: a hash over all that the trace depends on, the code included."""
    settings = {name: value for name, value in vars(options).items() if name not in IRRELEVANT}
    settings |= {
        "mixed_precision": precision_on(device, options),
        "grad_acc_steps": min(2, options.grad_acc_steps),
        "sample_every": bool(options.sample_every),
        "guidance_scale": options.guidance_scale > 1,
    }
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    code = [path.read_text(encoding="utf-8") for path in sorted(pathlib.Path(__file__).parent.glob("*.py"))]
    everything = json.dumps([settings, architecture, device, versions, code], sort_keys=True)
    return hashlib.blake2b(everything.encode(), digest_size=16).hexdigest()


def precision_on(device, options):
    """'half' or 'no': what --mixed_precision comes to there. fp16 and bf16 take the same memory."""
    auto = {"cuda": "half", "cpu": "no"}[device]
    return {"auto": auto, "no": "no"}.get(options.mixed_precision, "half")


# ---------------------------------------------------------------------------------------------------------------------
# The trace


def trace(options, architecture, device):
    """{phase: {kind: bytes}}: each phase of a run at its highest moment, when the optimizer has its states already."""
    half = precision_on(device, options) == "half"
    learning = [name for name in models.PARTS if getattr(options, f"train_{name}")]
    with torch.device("meta"):
        parts = architectures.build(architecture)
    parts.scheduler = tiny.build_scheduler()
    models.freeze(parts, learning)
    if options.grad_ckpt:
        models.enable_checkpointing(parts, learning)
    models.place(parts, "meta", "bf16" if half else "no", learning)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)  # the noise schedule's few numbers are real
    networks = (parts.text_encoder, parts.vae, parts.unet)
    with fakes:
        for network in networks:
            network.to_empty(device="cpu")
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"),
        autocast=lambda: torch.autocast("cpu", torch.bfloat16, enabled=half),
        scaler=None,
        prepare=lambda optimizer: optimizer,
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )
    run = types.SimpleNamespace(  # stands in for session.Session
        options=options,
        parts=parts,
        noise_scheduler=parts.noise_scheduler,
        optimizer=optimizers.make(options, parts, learning, accelerator),
        accelerator=accelerator,
    )

    phases = {
        "training": lambda: update(run),
        "validation": lambda: validate(run),
        "sampling": lambda: sample(run, at_once=1 if device == "cpu" else options.num_samples),  # see sampling.draw
    }
    if not options.sample_every:
        del phases["sampling"]
    live, highest = LiveBytes(ROUNDING[device], cpu_workspace if device == "cpu" else None), {}
    with fakes, live, like_cuda(run.optimizer) if device == "cuda" else contextlib.nullcontext():
        live.mark([t for network in networks for t in (*network.parameters(), *network.buffers())], "weights")
        make_states(run, live)
        for name, phase in phases.items():
            live.restart()
            phase()
            highest[name] = {kind: live.at_peak.get(kind, 0) for kind in KINDS}
    return highest


@contextlib.contextmanager
def like_cuda(optimizer):
    """What torch does in another way on a GPU than on a CPU, as far as it takes memory.

    Autocast computes norms, interpolation and softmax in fp32 (torch's ATen/autocast_mode.h, AT_FORALL_FP32), which the
    CPU's does not; the optimizers of torch work on all weights at once (foreach), with temporary copies.
    """
    functional = torch.nn.functional
    functions = {name: getattr(functional, name) for name in ("group_norm", "layer_norm", "interpolate", "softmax")}

    def in_fp32(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            def cast(value):
                return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

            if torch.is_autocast_enabled("cpu"):
                args, kwargs = [cast(value) for value in args], {name: cast(value) for name, value in kwargs.items()}
            return function(*args, **kwargs)

        return wrapped

    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and not group.get("fused"):
            group["foreach"] = True
    for name, function in functions.items():
        setattr(functional, name, in_fp32(function))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(functional, name, function)


def cpu_workspace(func, args, result):
    """Bytes that an operator takes on a CPU while it works, beside its result; seen in the allocations of single calls.

    Convolutions copy to oneDNN's own layout, where channels go to multiples of 16. Forward: the input (if it has 16
    channels or more), the weights and the output; backward: first the output's gradient, the weights and the input's
    gradient, then the output's gradient, the input and the weights' gradient. 1 x 1 needs none. bitsandbytes' 8-bit
    step works on five fp32 copies.
    """
    name = func.overloadpacket.__name__
    if name == "optimizer_update_8bit_blockwise":
        return 5 * 4 * args[2].numel()
    if name not in ("convolution", "conv2d", "convolution_backward"):
        return 0
    backward = name == "convolution_backward"
    image, weight = args[1:3] if backward else args[:2]
    output = args[0] if backward else result
    if weight.shape[-1] == 1:
        return 0

    def copied(tensor):
        return tensor.nbytes // tensor.shape[1] * -(-tensor.shape[1] // 16) * 16

    if not backward:
        source = copied(image) if image.shape[1] >= 16 else 0
        return max(source + weight.nbytes + copied(output) - output.nbytes, copied(output))
    results = sum(tensor.nbytes for tensor in result[:2] if tensor is not None)
    to_image = copied(output) + weight.nbytes + copied(image) if result[0] is not None else 0
    to_weight = copied(output) + copied(image) + results if result[1] is not None else 0
    return max(to_image, to_weight, results + weight.nbytes) - results


def learning_weights(run):
    return [p for group in run.optimizer.param_groups for p in group["params"]]


def make_states(run, live):
    """A step for gradients of 0, as in a short update that has no batch: the optimizer has its states from now on."""
    for p in learning_weights(run):
        p.register_post_accumulate_grad_hook(lambda p: None if p.grad is None else live.mark([p.grad], "gradients"))
    for group in run.optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # as the learning rates' schedule sets it
    run.optimizer.begin(0, 1.0)
    (sum(p.sum() for p in learning_weights(run)) * 0).backward()
    run.optimizer.clip()
    run.optimizer.step()
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    live.mark([value for value in states if isinstance(value, torch.Tensor)], "optimizer")


def denoise(run, batch_size):
    """updates.denoising_loss of a batch."""
    width, height = config.size(run.options)
    noise = (batch_size, *models.latent_shape(run.parts, (width, height)))
    positions = run.parts.text_encoder.config.max_position_embeddings
    return updates.denoising_loss(
        run,
        {
            "pixel_values": torch.empty(batch_size, 3, height, width),
            "input_ids": torch.zeros(batch_size, positions, dtype=torch.int64),
        },
        torch.empty(noise),
        torch.empty(noise),
        torch.zeros(batch_size, dtype=torch.int64),
        run.options.snr_gamma,
    )


def update(run):
    """What training.train does for an optimizer update; from its second batch on there are gradients already."""
    run.optimizer.begin(0, 1.0)
    for _ in range(min(2, run.options.grad_acc_steps)):
        losses = denoise(run, run.options.batch_size)
        losses.sum().backward()
    run.optimizer.clip()
    run.optimizer.step()


def validate(run):
    """A batch of updates.validate."""
    with models.evaluating(run.parts):
        denoise(run, min(run.options.batch_size, run.options.validation_rows))


def sample(run, at_once):
    """The networks' work in training.preview, for `at_once` covers. The samplers look at values, which fake tensors
    have not; what they keep beside are a few latents, a thousandth of the rest.

    In inference mode, as sampling.draw: autocast then keeps no cast weights, which under no_grad it does.
    """
    parts, options = run.parts, run.options
    rows = at_once * (2 if options.guidance_scale > 1 else 1)
    latent_shape = models.latent_shape(parts, config.size(options))
    positions = parts.text_encoder.config.max_position_embeddings
    with models.evaluating(parts), run.accelerator.autocast(), torch.inference_mode():
        prompt_embeds = models.encode_text(parts.text_encoder, torch.zeros(rows, positions, dtype=torch.int64))
        latents = torch.empty(rows, *latent_shape, dtype=parts.unet.dtype)
        timestep = torch.zeros((), dtype=torch.int64)
        latents = parts.unet(latents, timestep, prompt_embeds.to(parts.unet.dtype), return_dict=False)[0]
        models.decode_latents(parts.vae, latents[:at_once])
