"""One optimizer update: gradients add up to those of the mean loss; processes without a batch add nothing."""

import types

import pytest
import torch

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
