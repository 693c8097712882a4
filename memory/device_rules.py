"""What a memory trace has to know about devices: allocation sizes, a GPU's autocast, a CPU's workspaces."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

ROUNDING = {"cuda": 512, "cpu": 64}  # bytes; torch's allocators hand out multiples of them


@contextlib.contextmanager
def emulate_cuda_autocast() -> Iterator[None]:
    """Inside, the CPU's autocast takes the memory that CUDA's takes.

    CUDA's autocast computes norms, interpolation and softmax in fp32 (torch's ATen/autocast_mode.h, AT_FORALL_FP32),
    the CPU's does not.
    """
    functional = torch.nn.functional
    functions = {name: getattr(functional, name) for name in ("group_norm", "layer_norm", "interpolate", "softmax")}

    def in_fp32(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> torch.Tensor:
            def cast(value: Any) -> Any:
                return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

            if torch.is_autocast_enabled("cpu"):
                args, kwargs = [cast(value) for value in args], {name: cast(value) for name, value in kwargs.items()}
            return function(*args, **kwargs)

        return wrapped

    for name, function in functions.items():
        setattr(functional, name, in_fp32(function))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(functional, name, function)


def cpu_workspace(func: Any, args: Any, result: Any) -> int:
    """Bytes that an operator allocates on a CPU while it works, beside its result; measured on single calls.

    func, args, result: as in __torch_dispatch__. Convolutions copy to oneDNN's own layout, where channels are padded to
    multiples of 16. Forward: the input (if it has 16 channels or more), the weights and the output; backward: first the
    output's gradient, the weights and the input's gradient, then the output's gradient, the input and the weights'
    gradient. 1 x 1 convolutions need none. bitsandbytes' 8-bit step works on five fp32 copies.
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

    def copied(tensor: torch.Tensor) -> int:
        """Bytes of a tensor in oneDNN's layout."""
        return tensor.nbytes // tensor.shape[1] * -(-tensor.shape[1] // 16) * 16

    if not backward:
        source = copied(image) if image.shape[1] >= 16 else 0
        return max(source + weight.nbytes + copied(output) - output.nbytes, copied(output))
    results = sum(tensor.nbytes for tensor in result[:2] if tensor is not None)
    to_image = copied(output) + weight.nbytes + copied(image) if result[0] is not None else 0
    to_weight = copied(output) + copied(image) + results if result[1] is not None else 0
    return max(to_image, to_weight, results + weight.nbytes) - results
