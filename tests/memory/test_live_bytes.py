import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from memory.live_bytes import LiveBytes


def test_a_line_of_products():
    """x (8, 64): three matrices of 64 x 64 in a row; the forward pass keeps each one's input for the backward pass."""
    live = LiveBytes(rounding=1)
    with live:
        x = torch.ones(8, 64, requires_grad=True)
        weights = [torch.ones(64, 64) for _ in range(3)]
        y = x
        for w in weights:
            y = (y @ w).tanh()
    inputs = (8 * 64 + 3 * 64 * 64) * 4
    assert sum(live.current.values()) == inputs + 3 * 8 * 64 * 4  # tanh keeps its result, the product its frozen factor
    assert live.peak == inputs + 4 * 8 * 64 * 4  # with the last product, until tanh has it
    del y, w
    live.mark(weights, "weights")
    live.reset_peak()
    assert live.at_peak == {"weights": 3 * 64 * 64 * 4, "activations": 8 * 64 * 4}


def test_it_agrees_with_torchs_own_tracker():
    """MemTracker of torch.distributed, which follows modules: a small network's update with Adam, on fake tensors."""
    from torch.distributed._tools.mem_tracker import MemTracker

    def step(model, optimizer):
        model(torch.ones(32, 64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def network():
        layers = [torch.nn.Linear(64, 256), torch.nn.SiLU(), torch.nn.Linear(256, 256), torch.nn.LayerNorm(256)]
        model = torch.nn.Sequential(*layers)
        return model, torch.optim.Adam(model.parameters(), foreach=True)

    with FakeTensorMode():
        live = LiveBytes(rounding=1)
        with live:
            model, optimizer = network()
            step(model, optimizer)
            live.reset_peak()
            step(model, optimizer)
        model, optimizer = network()
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            step(model, optimizer)
            tracker.reset_mod_stats()
            step(model, optimizer)
            theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert live.peak == pytest.approx(theirs, rel=1e-3)
