"""The differentiable partial distance correlation against evaluation's in NumPy and against dcor; its gradient."""

import numpy as np
import pytest
import torch

from diffusion import decorrelation as dc
from evaluation import distance_correlation as reference


def codes(n, dtype=torch.float64):
    """Three codes, of which any two have something in common."""
    random = np.random.default_rng(n)
    x, y, z = (random.normal(size=(n, dims)) for dims in (7, 5, 2))
    y[:, :3] += x[:, :3] ** 2
    y[:, 3:] += z
    return [torch.tensor(code, dtype=dtype) for code in (x, y, z)]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("n", [4, 17, 64])
def test_it_is_what_the_metric_computes(n, dtype, error):
    x, y, z = codes(n, dtype)
    expected = reference.partial_correlation(*(code.numpy() for code in (x, y, z)))
    assert dc.partial_correlation(x, y, dc.pairwise_distances(z)).item() == pytest.approx(expected, abs=error)
    assert abs(expected) > 0.02


@pytest.mark.nightly  # numba, which dcor brings, takes 10 s to be imported
@pytest.mark.parametrize("n", [4, 17, 64])
def test_it_is_what_dcor_computes(n):
    import dcor

    x, y, z = codes(n)
    expected = dcor.partial_distance_correlation(*(code.numpy() for code in (x, y, z)))
    assert dc.partial_correlation(x, y, dc.pairwise_distances(z)).item() == pytest.approx(expected, abs=1e-10)


def test_its_gradient_is_the_difference_quotient():
    x, y, z = codes(9)
    distances = dc.pairwise_distances(z)
    function = lambda x, y: dc.partial_correlation(x, y, distances)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), y.requires_grad_()))


def test_equal_rows_have_finite_gradients():
    x, y, z = codes(12, torch.float32)
    x[1], y[3], z[5] = x[0], y[2], z[4]
    x.requires_grad_(), y.requires_grad_()
    dc.partial_correlation(x, y, dc.pairwise_distances(z)).backward()
    assert x.grad.isfinite().all() and y.grad.isfinite().all() and x.grad.abs().max() > 0


def test_a_constant_code_depends_on_nothing():
    x, y, z = codes(12)
    constant = torch.ones(12, 3, dtype=x.dtype, requires_grad=True)
    value = dc.partial_correlation(constant, y.requires_grad_(), dc.pairwise_distances(z))
    value.backward()
    assert value.item() == 0 and not constant.grad.any() and not y.grad.any()
    nothing = torch.zeros(12, 12, dtype=x.dtype)  # one genre for all: nothing to take out
    plain = dc.partial_correlation(x, y, nothing).item()
    assert plain == pytest.approx(reference.correlation(x.numpy(), y.detach().numpy()), abs=1e-10)
