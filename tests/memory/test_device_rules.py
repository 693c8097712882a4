import bitsandbytes
import pytest
import torch

from bench import memory_check
from memory import device_rules


def test_autocast_like_a_gpus():
    plain = torch.nn.functional.group_norm
    x, norm = torch.ones(1, 4, 2, 2, dtype=torch.bfloat16), torch.nn.GroupNorm(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = norm(x).dtype
        with device_rules.emulate_cuda_autocast():
            within = norm(x).dtype
    assert (before, within) == (torch.bfloat16, torch.float32)
    assert torch.nn.functional.group_norm is plain


def test_the_workspace_of_single_operators():
    """Against torch's allocator; 8 channels are 16 in oneDNN's layout."""
    x, w = torch.randn(2, 32, 48, 48), torch.randn(48, 32, 3, 3)
    y = torch.nn.functional.conv2d(x, w, padding=1)
    convolution = torch.ops.aten.convolution.default
    words = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    measured = memory_check.allocated(lambda: convolution(x, w, *words))
    assert device_rules.cpu_workspace(convolution, (x, w, *words), y) + y.nbytes == pytest.approx(measured, rel=0.01)
    backward = torch.ops.aten.convolution_backward.default
    words = (None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
    measured = memory_check.allocated(lambda: backward(y, x, w, *words))
    results = x.nbytes + w.nbytes
    forecast = device_rules.cpu_workspace(backward, (y, x, w, *words), (x, w, None)) + results
    assert forecast == pytest.approx(measured, rel=0.01)

    p = torch.nn.Parameter(torch.ones(2**16))
    optimizer = bitsandbytes.optim.AdamW8bit([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    step = torch.ops.bitsandbytes.optimizer_update_8bit_blockwise.default
    assert device_rules.cpu_workspace(step, ("adam", p.grad, p), None) == pytest.approx(
        memory_check.allocated(optimizer.step), rel=0.01
    )
