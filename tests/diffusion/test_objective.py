import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from common import randomness
from common.errors import UserError
from diffusion import objective
from diffusion.noise import normal, stratified_timesteps, training_noise, uniform_timesteps
from diffusion.objective import LossSettings

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_scheduler(prediction_type="epsilon"):
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )


class PlainUNet(torch.nn.Module):
    """Predicts scale * x + mean of the text: simple enough for a closed form."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, timesteps, encoder_hidden_states, return_dict):
        return (self.scale * x + encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None],)


def make_batch():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 4, 6, 8, generator=generator)
    noise = torch.randn(3, 4, 6, 8, generator=generator)
    text = torch.randn(3, 77, 5, generator=generator)
    return latents, noise, text, torch.tensor([0, 400, 999])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("settings", "weighted"),
    [
        (LossSettings(), lambda snr, v: 1),
        (LossSettings(snr_gamma=5.0), lambda snr, v: min(snr, 5) / (snr + v)),
        (LossSettings(debiased=True), lambda snr, v: snr**0.5 / (snr + v)),
        (LossSettings(huber_c=0.3), lambda snr, v: 1),
        (LossSettings(huber_c=0.3, debiased=True), lambda snr, v: snr**0.5 / (snr + v)),
    ],
)
def test_loss_against_the_formulas_written_out(prediction_type, settings, weighted):
    latents, noise, text, timesteps = make_batch()
    scheduler = make_scheduler(prediction_type)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # scaled linear
    alpha_bar = np.cumprod(1 - betas)
    unet = PlainUNet()
    found = objective.loss(unet, scheduler, latents, text, noise, timesteps, settings)
    for i, t in enumerate(timesteps.tolist()):
        x_0, eps = latents[i].double().numpy(), noise[i].double().numpy()
        a, s = alpha_bar[t] ** 0.5, (1 - alpha_bar[t]) ** 0.5
        predicted = 0.5 * (a * x_0 + s * eps) + text[i].double().mean().item()
        wanted = eps if prediction_type == "epsilon" else a * eps - s * x_0
        snr = a**2 / s**2
        error, c = predicted - wanted, settings.huber_c
        values = error**2 if c is None else 2 * c * (np.sqrt(error**2 + c**2) - c)
        weight = weighted(snr, 1 if prediction_type == "v_prediction" else 0)
        assert found[i].item() == pytest.approx(weight * np.mean(values), rel=1e-4)


@pytest.mark.parametrize(("prediction_type", "last"), [("epsilon", 1), ("v_prediction", 0)])
def test_min_snr_weights_are_the_closed_form_also_at_snr_0(prediction_type, last):
    """min(SNR, 5) / SNR, and / (SNR + 1), in double precision, on a schedule with zero terminal SNR."""
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    scheduler = DDPMScheduler(prediction_type=prediction_type, **settings)
    roots = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2) ** 0.5
    alpha_bar = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2  # arXiv:2305.08891, algorithm 1
    snr = alpha_bar / (1 - alpha_bar)
    weights = objective.min_snr_weights(scheduler, torch.arange(1000), 5.0)
    if prediction_type == "epsilon":
        wanted = [1 if ratio == 0 else min(ratio, 5) / ratio for ratio in snr]
    else:
        wanted = np.minimum(snr, 5) / (snr + 1)
    assert weights.dtype == torch.float32 and weights[-1] == last and snr[-1] == 0
    assert np.allclose(weights, wanted, rtol=2e-3, atol=1e-6)  # diffusers multiplies alpha_bar up in float32
    assert weights[0] < 0.1 and weights.max() <= 1  # some of each branch


def test_places_within_one_of_a_letter_weigh_more():
    """1 + (w - 1) * [within one place of a letter], written out place by place; and times the squared error."""
    pages = torch.zeros(3, 1, 6 * 8, 8 * 8, dtype=torch.uint8)
    pages[0, 0, 47, 63] = 1  # the faintest pixel, in the last place
    pages[1, 0, 15:17, 20:30] = 200  # places (1, 2), (1, 3), (2, 2), (2, 3)
    weights = objective.letter_weights(pages, 8, 5.0)
    for b, y, x in np.ndindex(3, 6, 8):
        around = pages[b, 0, max(0, y - 1) * 8 : (y + 2) * 8, max(0, x - 1) * 8 : (x + 2) * 8]
        assert weights[b, 0, y, x] == (5 if around.any() else 1)
    assert weights.dtype == torch.float32 and [(weights[b] == 5).sum().item() for b in range(3)] == [4, 16, 0]
    assert torch.equal(objective.letter_weights(pages, 8, 1.0), torch.ones(3, 1, 6, 8))

    latents, noise, text, timesteps = make_batch()
    scheduler, unet = make_scheduler(), PlainUNet()
    arguments = (unet, scheduler, latents, text, noise, timesteps, LossSettings(snr_gamma=5.0))
    noisy = scheduler.add_noise(latents, noise, timesteps)
    error = unet(noisy, timesteps, text, return_dict=False)[0] - noise
    expected = (weights * error**2).mean(dim=(1, 2, 3)) * objective.min_snr_weights(scheduler, timesteps, 5.0)
    assert torch.allclose(objective.loss(*arguments, weights), expected)
    assert torch.equal(objective.loss(*arguments, weights)[2], objective.loss(*arguments)[2])  # its page is blank


def zero_snr_scheduler(prediction_type):
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    return DDPMScheduler(prediction_type=prediction_type, **settings)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_debiased_weights_are_finite_at_snr_0(prediction_type):
    weights = objective.debiased_weights(zero_snr_scheduler(prediction_type), torch.arange(1000))
    assert weights.dtype == torch.float32 and weights.isfinite().all() and weights[-1] == 0
    assert (weights[:-1] > 0).all()
    if prediction_type == "v_prediction":
        assert weights.max() <= 0.5  # sqrt(SNR) / (SNR + 1), at SNR 1


def test_debiased_weights_mean_the_same_for_epsilon_and_v():
    """Both weigh the squared error of the picture that follows from the prediction by sqrt(SNR), arXiv:2310.08442."""
    generator = torch.Generator().manual_seed(4)
    x_0, noise, wrong = torch.randn(3, 5, 1, 4, 4, generator=generator, dtype=torch.float64)
    timesteps = torch.tensor([5, 100, 400, 800, 999])
    alpha_bar = make_scheduler().alphas_cumprod.double()[timesteps].reshape(5, 1, 1, 1)
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    guess = x_0 + wrong  # of the picture; x_t is the same, so these are the guesses of noise and of v
    guessed_noise = noise - a / s * wrong
    errors = {"epsilon": guessed_noise - noise, "v_prediction": a * guessed_noise - s * guess - (a * noise - s * x_0)}
    found = [
        objective.debiased_weights(make_scheduler(name), timesteps) * error.square().mean(dim=(1, 2, 3))
        for name, error in errors.items()
    ]
    wanted = (a / s).flatten() * wrong.square().mean(dim=(1, 2, 3))
    assert np.allclose(found[0], wanted, rtol=1e-3) and np.allclose(found[1], wanted, rtol=1e-3)


def test_pseudo_huber_lies_between_its_limits():
    """error^2 for large c, 2 c |error| for small c; and never far from torch's Huber loss, which has a kink."""
    error = torch.tensor([-30.0, -2.0, -0.1, 0.0, 0.003, 0.5, 7.0])
    assert torch.allclose(objective.pseudo_huber(error, 1e6), error.square(), rtol=1e-5)
    assert torch.allclose(objective.pseudo_huber(error, 1e-6), 2e-6 * error.abs(), rtol=1e-2)
    for c in (0.01, 0.1, 1.0):
        found = objective.pseudo_huber(error, c)
        torchs = 2 * torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=c)
        assert (found <= torchs + 1e-6).all() and (found >= torchs - c**2 - 1e-6).all()
        assert torch.allclose(found, 2 * c * ((error.square() + c**2).sqrt() - c), atol=1e-6)


def test_noise_offset_is_one_number_for_each_sample_and_channel():
    plain = training_noise(3, range(10, 14), (4, 6, 5))
    assert torch.equal(plain, normal(3, randomness.NOISE, range(10, 14), (4, 6, 5)))
    added = (training_noise(3, range(10, 14), (4, 6, 5), 0.1) - plain) / 0.1
    assert torch.allclose(added, added[:, :, :1, :1].expand(4, 4, 6, 5), atol=1e-5)
    assert torch.allclose(training_noise(3, [12], (4, 6, 5), 0.1), plain[2:3] + 0.1 * added[2:3])  # whatever the batch
    many = training_noise(0, range(500), (4, 8, 8), 1.0).mean(dim=(2, 3))
    assert abs(many.var().item() - (1 + 1 / 64)) < 0.15 and abs(many.mean()) < 0.1  # 2000 numbers
    assert len({getattr(randomness, name) for name in randomness_purposes()}) == len(randomness_purposes())


def randomness_purposes():
    return [name for name in vars(randomness) if name.isupper()]


def test_an_unknown_prediction_type_is_refused():
    latents, noise, text, timesteps = make_batch()
    with pytest.raises(UserError, match="predicts 'sample'"):
        objective.loss(PlainUNet(), make_scheduler("sample"), latents, text, noise, timesteps)


@pytest.mark.script
def test_the_random_numbers_of_a_run_come_without_torch():
    """What only needs the order of an epoch does not wait for torch: 0.3 s instead of several."""
    code = "import sys, common.randomness; print(sorted({'torch', 'diffusers', 'transformers'} & sys.modules.keys()))"
    seconds = []
    for _ in range(3):  # the fastest, for other work may hold the processors
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - began)
        assert done.stdout.strip() == "[]"
    assert min(seconds) < 1


def test_random_numbers_are_functions_of_seed_purpose_and_position():
    together = normal(3, randomness.NOISE, range(10, 14), (4, 8, 8))
    alone = normal(3, randomness.NOISE, [12], (4, 8, 8))
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(alone, normal(3, randomness.POSTERIOR, [12], (4, 8, 8)))
    assert not torch.equal(alone, normal(4, randomness.NOISE, [12], (4, 8, 8)))
    many = normal(0, randomness.NOISE, range(200), (4, 8, 8))
    assert abs(many.mean()) < 0.02 and abs(many.std() - 1) < 0.02  # 51,200 draws: 4.5 standard errors
    state = torch.get_rng_state()
    normal(0, randomness.NOISE, range(3), (2,))
    assert torch.equal(state, torch.get_rng_state())


def test_timesteps_cover_the_whole_range_evenly():
    timesteps = uniform_timesteps(0, range(4000), 1000)
    assert timesteps.dtype == torch.int64 and timesteps.min() < 5 and timesteps.max() > 994 and timesteps.max() < 1000
    counts = np.bincount(timesteps.numpy() // 100, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize("count", [1, 3, 64, 1000])
def test_stratified_timesteps_take_one_from_each_stratum(count):
    timesteps = stratified_timesteps(count, 1000)
    assert (timesteps.double() * count // 1000).tolist() == list(range(count))


def test_every_epoch_visits_every_cover_once_in_another_order():
    first, second = (randomness.epoch_order(0, epoch, 50) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)
    assert list(first) == list(randomness.epoch_order(0, 0, 50))
