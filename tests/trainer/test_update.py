"""One optimizer update: gradients add up to those of the mean loss; processes without a batch add nothing."""

import math
import types

import accelerate
import pytest
import torch

from diffusion.ema import EMA
from diffusion.trainable import Trainable
from trainer.optimizers import Optimizer
from trainer.update import accumulate_gradients, apply_update, sum_over_processes


def accelerator(num_processes=1, reduce=None):
    return types.SimpleNamespace(
        device=torch.device("cpu"),
        backward=lambda loss: loss.backward(),
        num_processes=num_processes,
        reduce=reduce or (lambda values, _: values),
    )


def test_batches_of_any_size_give_the_gradient_of_the_mean():
    """d/dw mean((w x)^2) = 2 w mean(x^2)"""
    w = torch.nn.Parameter(torch.tensor(3.0))
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    loss_sum = accumulate_gradients(accelerator(), ((w * part).square() for part in x.split(2)), len(x))
    assert w.grad.item() == pytest.approx(2 * 3 * x.square().mean().item())
    assert loss_sum.item() == pytest.approx((9 * x.square()).sum().item()) and not loss_sum.requires_grad


def test_each_batch_is_computed_after_the_backward_pass_of_the_one_before():
    w, seen = torch.nn.Parameter(torch.tensor(1.0)), []

    def losses():
        for _ in range(3):
            seen.append(0.0 if w.grad is None else w.grad.item())
            yield w[None] * 2

    accumulate_gradients(accelerator(), losses(), 1)
    assert seen == [0.0, 2.0, 4.0]


def test_gradients_of_all_processes_are_summed_and_one_without_a_batch_adds_zeros():
    doubled = accelerator(2, lambda values, how: values * 2 if how == "sum" else None)
    w, unused = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(1.0))
    w.grad = torch.tensor(5.0)
    values = sum_over_processes(doubled, [w, unused], torch.tensor([1.0, 2.0]), had_batches=True)
    assert w.grad.item() == 10 and unused.grad.item() == 0 and values.tolist() == [2.0, 4.0]
    idle = torch.nn.Parameter(torch.tensor(1.0))
    sum_over_processes(doubled, [idle], torch.tensor([0.0]), had_batches=False)
    assert idle.grad.item() == 0


def test_the_average_follows_the_step():
    calls = []
    optimizer = types.SimpleNamespace(step=lambda: calls.append("step"))
    ema = types.SimpleNamespace(update=lambda step: calls.append(step))
    apply_update(optimizer, ema, 7)
    apply_update(optimizer, None, 8)
    assert calls == ["step", 7, "step"]


def test_fp16_leaves_out_an_update_that_overflows_and_makes_the_others_as_without_a_scaler(monkeypatch):
    """accelerate's optimizer and torch's loss scaler, on a CPU: weights and moments of a skipped update stay, and
    the scale is halved. The average then takes in the same finite weights once more."""
    accelerator = accelerate.Accelerator(cpu=True)
    monkeypatch.setattr(accelerate.Accelerator, "mixed_precision", "fp16")
    accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**10)
    options = types.SimpleNamespace(max_grad_norm=0.5)
    network, plain = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    plain.load_state_dict(network.state_dict())
    inner, alone = (torch.optim.AdamW(n.parameters(), lr=0.1, foreach=False) for n in (network, plain))
    for group in inner.param_groups:
        group["initial_lr"] = 0.1
    optimizer = Optimizer(inner, options, accelerator)
    average = EMA(Trainable({"unet": network}), 0.9)

    scales, skipped = [], []
    for step, factor in enumerate([1.0, math.inf, 1.0, math.nan, 1.0]):
        optimizer.begin(step, 1.0)
        losses = network(torch.tensor([[1.0, -2.0], [3.0, float(step)]]))[:, 0].square()
        accumulate_gradients(accelerator, [losses * factor if math.isinf(factor) else losses], 2)
        if math.isnan(factor):
            network.weight.grad[0, 0] = math.nan  # as an overflow within the network makes it
        before = [p.detach().clone() for p in network.parameters()]
        norm = optimizer.clip()
        assert math.isfinite(norm) == (factor == 1)
        apply_update(optimizer, average, step)
        skipped.append(optimizer.step_was_skipped)
        scales.append(accelerator.scaler.get_scale())
        if skipped[-1]:
            assert all(map(torch.equal, network.parameters(), before))
            continue
        plain(torch.tensor([[1.0, -2.0], [3.0, float(step)]]))[:, 0].square().mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        alone.step(), alone.zero_grad()
        for p, wanted in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, wanted, rtol=1e-6, atol=1e-7)
    assert skipped == [False, True, False, True, False] and scales == [1024, 512, 512, 256, 256]
    assert all(mean.isfinite().all() for _, mean in average.pairs())
