import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memory.live_bytes import LiveBytes
from memory.meta_tensors import DEVICE, IN_PLACE, SLOW, RememberedShapes, described, like_a_device


class Block(torch.nn.Module):
    """A little of all that a UNet has."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.query = torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 8, 3), torch.nn.Linear(8, 8)
        self.layer_norm, self.out = torch.nn.LayerNorm(8), torch.nn.Linear(8, 8, bias=False)

    def forward(self, x):
        x = torch.nn.functional.silu(self.conv(self.norm(x)))
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        q = self.query(x).unflatten(2, (2, 4)).transpose(1, 2)
        x = torch.nn.functional.scaled_dot_product_attention(q, self.query(x).view_as(q), q).flatten(1)
        x = torch.matmul(self.out(x.unflatten(1, (-1, 8))), x.unflatten(1, (8, -1)))
        return x.float().square().mean()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_bytes_are_those_of_real_tensors(half, inference):
    """Also of the casts that autocast keeps: on a CPU, torch's own."""

    def peaks(device, call):
        live = LiveBytes(1, call=call) if call else LiveBytes(1)
        network, x = Block().to(device), torch.ones(2, 8, 16, 16, device=device)
        found = []
        with live:
            live.mark([*network.parameters(), x], "weights")
            for _ in range(2):
                live.reset_peak()
                with torch.autocast("cpu", torch.bfloat16, enabled=half), torch.inference_mode(inference):
                    loss = network(x)
                    again = network(x)
                found.append(live.peak)
                if not inference:
                    (loss + again).backward()
                found.append((live.peak, live.total, dict(live.current)))
        return found

    real = peaks("cpu", None)
    with like_a_device():
        assert peaks(DEVICE, RememberedShapes().call) == real


def test_a_generator_and_a_fused_optimizer():
    plain = torch.Generator, torch.randint, torch.nn.functional.linear, torch.Tensor.matmul, torch.Tensor.cpu
    with like_a_device():
        generator = torch.Generator(DEVICE)
        assert torch.randint(4, (3,), device=DEVICE, generator=generator.manual_seed(1)).shape == (3,)
        p = torch.nn.Parameter(torch.empty(3, device=DEVICE).bernoulli_(0.5, generator=generator))
        assert p.cpu() is p
        p.grad = torch.ones_like(p)
        optimizer = torch.optim.AdamW([p], fused=True, foreach=False)
        optimizer.step()
        assert optimizer.state[p]["exp_avg"].shape == (3,)
    assert plain == (torch.Generator, torch.randint, torch.nn.functional.linear, torch.Tensor.matmul, torch.Tensor.cpu)
    assert "cpu" not in vars(torch.Tensor)  # it is torch's again, which Tensor inherits


class Both(TorchDispatchMode):
    """Runs each operator twice by RememberedShapes, and by torch; `seen` had the same results."""

    def __init__(self):
        super().__init__()
        self.remembered, self.seen = RememberedShapes(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.remembered.call(func, args, kwargs or {})
        found, wanted = self.remembered.call(func, args, kwargs or {}), func(*args, **(kwargs or {}))
        if func in IN_PLACE:
            assert found is args[0] and wanted is args[0]
        elif func in SLOW:
            found, wanted_ones = ((r,) if isinstance(r, torch.Tensor) else r for r in (found, wanted))
            assert list(map(described, found)) == list(map(described, wanted_ones))
        self.seen.add(func)
        return wanted


def test_what_is_remembered_is_what_torch_returns():
    x = torch.empty(2, 8, 4, 4, device=DEVICE, requires_grad=True)
    network = Block().to(DEVICE)
    with Both() as both:
        for half in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                y = network(x) / 2 + 1
            y = torch.nn.functional.gelu(y) + x.norm() * x.mean(1).sum()
            y.backward()
        with torch.inference_mode():
            network(x)
            y = x.clamp(max=1).pow(2).abs().neg().reciprocal().rsqrt()
            y = torch.where((y == y) & (y != 1), y, 0)
            y.add_(y).mul_(2).div_(3).clamp_(1).rsqrt_().copy_(x).zero_()
            torch.ones(3, dtype=torch.int32, device=DEVICE).bitwise_and_(1)
    assert both.seen >= IN_PLACE - {torch.ops.aten.div_.Tensor} and len(SLOW - both.seen) <= 4, SLOW - both.seen
