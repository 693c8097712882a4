"""What updates the trained weights: which optimizer, and whether all weights at once or one after the other.

Optimizer is the usual way: the library's own step after the backward pass. PerParameterOptimizer is for small GPUs. It
updates one weight at a time in fp32, which

- --fused_backward does inside the backward pass, as soon as a gradient is complete: gradients are never all alive;
- --weights_dtype bf16 needs, so that the sum of weight and update is rounded stochastically.

Both keep their moments in one optimizer of torch, transformers or bitsandbytes, in the same format.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import bitsandbytes
import torch
import transformers

import config
from common import randomness
from common.errors import UserError
from diffusion.trainable import Trainable


def require_possible(options: config.TrainingOptions, precision: str, num_processes: int) -> None:
    """UserError if --fused_backward or --weights_dtype can't work in this precision, on this machine.

    cli.checks sees the options alone: not what 'auto' has become, nor how many processes `accelerate launch` made.
    """
    if options.fused_backward and precision == "fp16":
        raise UserError(
            "--fused_backward can't use the loss scaler that fp16 needs, and this GPU does not compute in bf16: "
            "give --mixed_precision no, or --fused_backward False"
        )
    if options.fused_backward and num_processes > 1:
        raise UserError(
            f"--fused_backward updates a weight before {num_processes} processes could share its gradient: launch one "
            "process, or give --fused_backward False"
        )
    emulated = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
    if options.weights_dtype == "bf16" and emulated:
        raise UserError(
            "--weights_dtype bf16, which --preset 6gb and 8gb set, too: this GPU does not compute in bf16; give "
            "--weights_dtype fp32 --fused_backward False, and see with --plan what fits then"
        )


def build(options: config.TrainingOptions, trainable: Trainable, scaler: Any = None) -> torch.optim.Optimizer:
    """The torch.optim.Optimizer called options.optimizer: a group with its own learning rate for each trained part.

    trainable: on its device. scaler: the loss scaler of fp16, if there is one. AdamW: arXiv:1711.05101; 8-bit:
    arXiv:2110.02861; paged: arXiv:2305.14314, the driver moves moments to the CPU's memory when the GPU's is full. On
    a CPU there is nothing to page, and bitsandbytes takes the plain 8-bit one.
    """
    rates = config.learning_rates(options)
    trained = trainable.named_parameters()
    groups = [{"params": list(parameters.values()), "lr": rates[part]} for part, parameters in trained.items()]
    if options.optimizer == "adamw":
        # One kernel for each weight, without temporary copies of all, as foreach would make. With a loss scaler it
        # would hide from accelerate that an update was skipped: there a plain loop
        return torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=scaler is None, foreach=False)
    if options.optimizer == "adafactor":
        return Adafactor(groups, weight_decay=options.weight_decay)
    paged = options.optimizer == "paged_adamw8bit"
    if paged:  # said on a CPU, and while memory is forecast for a GPU
        warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")
    return bitsandbytes.optim.AdamW8bit(groups, weight_decay=options.weight_decay, is_paged=paged)


def make(options: config.TrainingOptions, trainable: Trainable, accelerator: Any) -> Optimizer:
    """The Optimizer that the options ask for. See `build`."""
    inner = build(options, trainable, accelerator.scaler)
    kind = PerParameterOptimizer if options.fused_backward or options.weights_dtype == "bf16" else Optimizer
    return kind(inner, options, accelerator)


# ---------------------------------------------------------------------------------------------------------------------
# All at once


class Optimizer:
    """All weights are updated by one step after the backward pass; fp16's loss scaler may skip it.

    For each update: begin, any number of backward passes, clip, step.
    """

    def __init__(self, inner: torch.optim.Optimizer, options: config.TrainingOptions, accelerator: Any):
        self.inner, self.accelerator = inner, accelerator
        self.max_grad_norm = options.max_grad_norm
        self.accelerated = accelerator.prepare(inner)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.inner.param_groups

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.inner.param_groups for p in group["params"]]

    @property
    def state(self) -> dict[torch.nn.Parameter, dict[str, Any]]:
        """{weight: its moments}, as in torch."""
        return self.inner.state

    @property
    def step_was_skipped(self) -> bool:
        """Whether the loss scaler skipped the last update."""
        return self.accelerated.step_was_skipped

    def begin(self, update: int, lr_multiplier: float) -> None:
        """Before the backward passes of update number `update`: its learning rates."""
        for group in self.inner.param_groups:
            group["lr"] = group["initial_lr"] * lr_multiplier

    @contextlib.contextmanager
    def dry_run(self) -> Iterator[None]:
        """Inside, backward passes leave weights and moments as they are; no gradient stays."""
        yield
        for p in self.parameters:
            p.grad = None

    def clip(self) -> torch.Tensor:
        """After the backward passes: scale the gradients to max_grad_norm at most. Returns their norm before, 0-dim."""
        return self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)

    def step(self) -> None:
        """Update the weights and drop the gradients."""
        self.accelerated.step()
        self.accelerated.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Moments as they were saved, in their precision, each where this optimizer keeps it."""
        if getattr(self.inner, "is_paged", False):
            self.inner.load_state_dict(saved, move_to_device=False)
            for p, state in self.inner.state.items():
                for name in ("state1", "state2"):  # to memory that the driver can page
                    state[name] = self.inner.get_state_buffer(p, dtype=state[name].dtype).copy_(state[name])
            self.inner.to_gpu()  # the others
            return
        # torch casts moments to the dtype of their weight: here to that of its update, which is fp32
        weights = {p: p.data for p in self.parameters}
        for p in weights:
            p.data = torch.empty(0, device=p.device)
        ways = [{name: group[name] for name in ("fused", "foreach") if name in group} for group in self.param_groups]
        self.inner.load_state_dict(saved)
        for p, data in weights.items():
            p.data = data
        for group, way in zip(self.param_groups, ways, strict=True):
            group.update(way)  # of this precision, not of that which the state was saved in: see `build`


# ---------------------------------------------------------------------------------------------------------------------
# Per parameter


class PerParameterOptimizer(Optimizer):
    """Each weight is updated by itself, in fp32: inside the backward pass if options.fused_backward, else by `step`.

    Inside the backward pass the norm of the whole gradient is not known yet, so max_grad_norm bounds that of each
    weight's own; where nothing is clipped, all is bit for bit as with Optimizer. Weights in bf16 are rounded
    stochastically, with random bits that are a function of (seed, update, index of the weight).
    """

    def __init__(self, inner: torch.optim.Optimizer, options: config.TrainingOptions, accelerator: Any):
        super().__init__(inner, options, accelerator)
        self.fused, self.seed, self.dry_running = options.fused_backward, options.seed, False
        self.indexes = {}  # weight -> (its group, its index among all)
        for number, group in enumerate(inner.param_groups):
            self.indexes |= {p: (number, len(self.indexes) + i) for i, p in enumerate(group["params"])}
        self.generator = torch.Generator(accelerator.device)
        self.squares = torch.zeros((), device=accelerator.device)  # of the gradients' norms, so far
        if self.fused:
            for p in self.indexes:
                p.register_post_accumulate_grad_hook(self.clip_and_update)

    def begin(self, update: int, lr_multiplier: float) -> None:
        super().begin(update, lr_multiplier)
        self.number = update
        self.squares.zero_()

    @contextlib.contextmanager
    def dry_run(self) -> Iterator[None]:
        self.dry_running = True
        with super().dry_run():
            yield
        self.dry_running = False

    def clip(self) -> torch.Tensor:
        """The norm of the whole gradient before clipping, 0-dim; `step` will clip, if the backward pass has not."""
        if not self.fused:
            grads = [p.grad for p in self.indexes if p.grad is not None]
            for grad in grads:
                self.squares += torch.linalg.vector_norm(grad, dtype=torch.float32).square()
            self.scale = clip_scale(self.squares.sqrt(), self.max_grad_norm)
        return self.squares.sqrt()

    def step(self) -> None:
        if not self.fused:
            for p in self.indexes:
                if p.grad is not None:
                    self.update(p, self.scale)

    def clip_and_update(self, p: torch.nn.Parameter) -> None:
        """The hook: `p` has its whole gradient."""
        if self.dry_running:
            p.grad = None
            return
        norm = torch.linalg.vector_norm(p.grad, dtype=torch.float32)
        self.squares += norm.square()
        self.update(p, clip_scale(norm, self.max_grad_norm))

    @torch.no_grad()
    def update(self, p: torch.nn.Parameter, scale: torch.Tensor) -> None:
        """Update `p` by its gradient times `scale` (0-dim), in fp32, and drop the gradient."""
        group, index = self.indexes[p]
        weights, grad = p.data, p.grad.float().mul_(scale)
        p.grad = None  # it would have to have the dtype of the data
        p.data = weights.float()  # fp32 weights: the very same
        p.grad = grad

        groups = self.inner.param_groups
        self.inner.param_groups = [{**groups[group], "params": [p]}]
        self.inner.step()
        self.inner.param_groups = groups

        updated, p.data, p.grad = p.data, weights, None
        if weights.dtype == torch.bfloat16:
            random = randomness.rng(self.seed, randomness.ROUNDING, self.number * len(self.indexes) + index)
            self.generator.manual_seed(int(random.integers(2**63)))
            weights.copy_(round_stochastically(updated, self.generator))
        elif not same_storage(updated, weights):  # a library made it contiguous
            weights.copy_(updated)


def same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are views of the same memory; unlike data_ptr(), meta tensors can tell, too."""
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def clip_scale(norm: torch.Tensor, max_norm: float) -> torch.Tensor:
    """The factor that brings a gradient of this norm (0-dim) to max_norm at most, as torch's clip_grad_norm_ has it."""
    return (max_norm / (norm + 1e-6)).clamp(max=1)


def round_stochastically(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 -> bfloat16, up or down with the probability that makes the mean right (arXiv:2010.06192).

    bfloat16 is the upper half of float32. Adding a uniform whole number below 2^16 to the pattern carries into the
    upper half with a probability of (lower half) / 2^16, for either sign. What bfloat16 has stays as it is.
    """
    noise = torch.randint(1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    upper = noise.add_(values.view(torch.int32)).bitwise_and_(-(1 << 16))
    # the pattern of some NaNs would carry into the sign
    return torch.where(values.isfinite(), upper.view(torch.float32), values).to(torch.bfloat16)


# ---------------------------------------------------------------------------------------------------------------------


class Adafactor(transformers.Adafactor):
    """Adafactor (arXiv:1804.04235): no first moment, the second one as a mean for each row and each column of a matrix.

    lr is the size of a step, as AdamW's is: each weight's update has a root mean square of lr at most, which neither
    falls with time nor goes by the size of the weights (the paper's relative steps). Weight decay is decoupled.

    Convolutions are taken as matrices (out, in x height x width). The library would factor each kernel by itself, which
    takes two thirds of the weights' own size for 3 x 3 kernels, and twice their size for 1 x 1.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float):
        super().__init__(groups, weight_decay=weight_decay, scale_parameter=False, relative_step=False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        folded = {
            p: p.data for group in self.param_groups for p in group["params"] if p.ndim > 2 and p.grad is not None
        }
        for p, weights in folded.items():
            grad, p.grad = p.grad.flatten(1), None
            p.data = weights.flatten(1)
            p.grad = grad
        super().step()
        for p, weights in folded.items():
            updated, grad = p.data.view_as(weights), p.grad.view_as(weights)
            p.grad = None
            p.data, p.grad = weights, grad
            if not same_storage(updated, weights):  # weights that are not contiguous
                weights.copy_(updated)
