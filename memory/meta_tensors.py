"""The meta device as a stand-in for a CPU or a GPU: torch code runs on it as it would there, with no memory or time.

Meta tensors have shapes and types but no values. What torch leaves out for them is put in here: mixed precision,
generators, the choice of an attention kernel, and what stays where it is because the device is the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.optim.adam as adam

DEVICE = "meta"

# Of the operators that torch computes in the lower precision (torch's ATen/autocast_mode.h,
# AT_FORALL_LOWER_PRECISION_FP), those that the networks and the adapters call
LOWER_PRECISION = {
    torch: ("matmul", "bmm", "baddbmm", "addmm"),
    torch.Tensor: ("matmul", "__matmul__", "bmm"),
    torch.nn.functional: ("linear", "conv2d", "scaled_dot_product_attention"),
}


@contextlib.contextmanager
def like_a_device() -> Iterator[None]:
    """Inside, torch.autocast("cpu") works on meta tensors, and so does what else training calls."""
    casts = CachedCasts()
    attention = torch.nn.functional.scaled_dot_product_attention
    with contextlib.ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            if name in vars(owner):
                stack.callback(setattr, owner, name, getattr(owner, name))
            else:  # inherited
                stack.callback(delattr, owner, name)
            setattr(owner, name, value)

        replace(torch.nn.functional, "scaled_dot_product_attention", functools.partial(fused_attention, attention))
        for owner, names in LOWER_PRECISION.items():
            for name in names:
                replace(owner, name, casts.before(getattr(owner, name)))
        replace(torch, "clear_autocast_cache", casts.clear)  # the outermost autocast calls it as it ends
        replace(torch, "Generator", AnyGenerator)
        for owner, name in ((torch, "randint"), (torch.Tensor, "bernoulli_")):
            replace(owner, name, without_generator(getattr(owner, name)))
        replace(torch.Tensor, "cpu", lambda tensor: tensor)
        replace(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
        yield


class AnyGenerator(torch.Generator):
    """A CPU's generator for any device: there is none for meta tensors."""

    def __new__(cls, device: Any = None) -> AnyGenerator:
        return super().__new__(cls)


def without_generator(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function without its argument `generator`: none is of the meta device."""
    return lambda *args, generator=None, **kwargs: function(*args, **kwargs)


def fused_attention(
    general: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **others: Any,
) -> torch.Tensor:
    """Attention with what a device's fused kernel keeps for the backward pass: on meta tensors torch would take the
    general one, whose scores take memory that no device needs. general: torch's function."""
    if torch.is_inference_mode_enabled() or others.get("enable_gqa"):
        return general(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype)  # as torch does with a mask of bools
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


class CachedCasts:
    """What autocast does before an operator that computes in the lower precision (torch's ATen/autocast_mode.cpp).

    Floating point arguments are cast. The casts of trained fp32 weights are kept until the outermost autocast ends.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # id -> the weight and its cast

    def before(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """The function with its arguments cast where autocast is on."""

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
            if torch.is_autocast_enabled("cpu"):
                args = tuple(self.cast(value) for value in args)
                kwargs = {name: self.cast(value) for name, value in kwargs.items()}
            return function(*args, **kwargs)

        return wrapped

    def cast(self, value: Any) -> Any:
        """The tensor in the lower precision; anything else as it is."""
        dtype = torch.get_autocast_dtype("cpu")
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        keep = (
            value.dtype == torch.float32
            and value.is_leaf
            and value.requires_grad
            and not value._is_view()
            and torch.is_autocast_cache_enabled()
            and not torch.is_inference_mode_enabled()
        )
        if not keep:
            return value.to(dtype)
        if id(value) not in self.kept:
            self.kept[id(value)] = value, value.to(dtype)
        return self.kept[id(value)][1]

    def clear(self) -> None:
        """Keep no cast any more."""
        self.kept.clear()


aten = torch.ops.aten
# Operators whose results torch works out in Python, which is slow. None returns what it was given, or a view of it
SLOW = {
    *(aten.linalg_vector_norm.default, aten.scaled_dot_product_attention.default, aten.linear.default),
    *(aten.native_layer_norm.default, aten.native_layer_norm_backward.default, aten.layer_norm.default),
    *(aten.native_group_norm.default, aten.native_group_norm_backward.default, aten.group_norm.default),
    *(aten.addmm.default, aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.mean.dim),
    *(aten.gelu.default, aten.gelu_backward.default, aten.silu.default),
    *(aten.clamp.default, aten.pow.Tensor_Scalar, aten.abs.default, aten.neg.default),
    *(aten.reciprocal.default, aten.rsqrt.default, aten.where.self, aten.eq.Tensor, aten.ne.Scalar),
}
# These change their first argument and return it: there is nothing to do without values
IN_PLACE = {
    *(aten.add_.Tensor, aten.mul_.Tensor, aten.div_.Tensor, aten.clamp_.default, aten.rsqrt_.default),
    *(aten.bitwise_and_.Scalar, aten.copy_.default, aten.zero_.default),
}


class RememberedShapes:
    """Runs operators on meta tensors; those in SLOW once for each shape of what they get."""

    def __init__(self) -> None:
        self.results: dict[Any, Any] = {}  # what an operator got -> a description of what it returned

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What func(*args, **kwargs) returns."""
        if func in IN_PLACE:
            return args[0]
        if func not in SLOW:
            return func(*args, **kwargs)
        key = (func, *map(described, args), *((name, described(value)) for name, value in kwargs.items()))
        if key not in self.results:
            result = func(*args, **kwargs)
            self.results[key] = described(result) if isinstance(result, torch.Tensor) else tuple(map(described, result))
            return result
        return made(self.results[key])


class Description(NamedTuple):
    """What one meta tensor has."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def described(value: Any) -> Any:
    """A tensor's Description; lists as tuples; anything else as it is, with its type (1 and True are equal)."""
    if isinstance(value, torch.Tensor):
        return Description(tuple(value.shape), value.stride(), value.dtype, value.device)
    return tuple(value) if isinstance(value, list) else (type(value), value)


def made(result: Any) -> Any:
    """New tensors like those that were described."""
    if isinstance(result, Description):
        return torch.empty_strided(result.shape, result.stride, dtype=result.dtype, device=result.device)
    return tuple(made(one) if isinstance(one, Description) else None for one in result)
