"""The options of loss and noise reach the loss of training, and nothing of them that of validation."""

import contextlib

import pytest
import torch

import config
from common import randomness
from diffusion import encoding, pipeline
from diffusion.lettering import build_lettering, lettering_pages
from diffusion.noise import normal, training_noise, uniform_timesteps
from diffusion.objective import LossSettings
from trainer import session
from trainer.losses import Objective, loss_settings


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load_parts("tiny")


@pytest.fixture(scope="module")
def batch(tiny):
    generator = torch.Generator().manual_seed(3)
    ids = tiny.tokenizer(["a book", "a tree"], padding="max_length", return_tensors="pt").input_ids
    return {"pixel_values": torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1, "input_ids": ids}


def objective_of(tiny, options):
    device = torch.device("cpu")
    settings = loss_settings(options)
    return Objective(
        tiny, tiny.noise_scheduler, device, contextlib.nullcontext, options.seed, settings, options.noise_offset
    )


def test_the_settings_are_those_of_the_options():
    assert loss_settings(config.TrainingOptions(letter_loss_weight=1)) == LossSettings()
    asked = config.TrainingOptions(loss="huber", huber_c=0.2, debiased_loss=True)
    assert loss_settings(asked) == LossSettings(None, True, 0.2, letter_weight=5)
    assert loss_settings(config.TrainingOptions(snr_gamma=5.0)) == LossSettings(snr_gamma=5.0, letter_weight=5)


@torch.no_grad()
def test_training_takes_them_and_validation_does_not(tiny, batch):
    plain = objective_of(tiny, config.TrainingOptions(seed=2))
    options = config.TrainingOptions(seed=2, loss="huber", debiased_loss=True, noise_offset=0.3)
    asked = objective_of(tiny, options)
    shape, samples = plain.latent_shape(batch), [40, 41]
    posterior_noise = normal(2, randomness.POSTERIOR, samples, shape)
    timesteps = uniform_timesteps(2, samples, 1000)
    noise = training_noise(2, samples, shape)
    usual = plain.losses(batch, posterior_noise, noise, timesteps)
    assert torch.equal(plain.training_losses(batch, samples), usual)
    assert torch.equal(asked.losses(batch, posterior_noise, noise, timesteps), usual)  # as validation calls it
    wanted = plain.losses(
        batch, posterior_noise, training_noise(2, samples, shape, 0.3), timesteps, LossSettings(None, True, 0.1)
    )
    found = asked.training_losses(batch, samples)
    assert torch.equal(found, wanted) and not torch.allclose(found, usual)


@torch.no_grad()
def test_letters_weigh_more_in_training_and_validation_draws_with_them_too(batch):
    parts = pipeline.load_parts("tiny")
    asked = objective_of(parts, config.TrainingOptions(seed=2))
    usual = asked.training_losses(batch, [40, 41])
    page = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    page[0, 0, :8, :8] = 255  # one latent place of 4 x 4, hence 2 x 2 that weigh 5; the second cover is blank
    lettered = {**batch, "page": page}
    near = torch.ones(2, 1, 4, 4)
    near[0, 0, :2, :2] = 5

    def found(weights):
        noise, timesteps = training_noise(2, [40, 41], (4, 4, 4)), uniform_timesteps(2, [40, 41], 1000)
        latents = encoding.encode_images(
            parts.vae, batch["pixel_values"], normal(2, randomness.POSTERIOR, [40, 41], (4, 4, 4))
        )
        text = encoding.encode_text(parts.text_encoder, batch["input_ids"])
        noisy = parts.noise_scheduler.add_noise(latents, noise, timesteps)
        with lettering_pages(parts, page):
            predicted = parts.unet(noisy, timesteps, text, return_dict=False)[0]
        return ((predicted - noise).square() * weights).mean(dim=(1, 2, 3))

    parts.lettering = build_lettering(parts)
    weighted = asked.training_losses(lettered, [40, 41])  # a new network adds nothing: only the weights count
    assert torch.allclose(weighted, found(near)) and weighted[0] > usual[0] and weighted[1] == usual[1]
    parts.lettering.entrance_out.weight += 0.1
    parts.lettering.exit_out.weight += 0.1
    learned = asked.training_losses(lettered, [40, 41])
    assert torch.allclose(learned, found(near)) and learned[0] != weighted[0] and learned[1] == usual[1]
    shape = (4, 4, 4)
    words = normal(2, randomness.POSTERIOR, [40, 41], shape), training_noise(2, [40, 41], shape)
    plain = asked.losses(lettered, *words, uniform_timesteps(2, [40, 41], 1000))  # as validation calls it
    assert torch.allclose(plain, found(1)) and plain[1] == usual[1]


def test_a_model_is_trained_on_the_schedule_that_was_asked_for():
    given = dict(pretrained_model="tiny", prediction_type="v_prediction")
    parts, _ = session.load_model(config.TrainingOptions(**given, zero_terminal_snr=True), "tiny", None)
    assert parts.noise_scheduler.alphas_cumprod[-1] == 0
    assert parts.noise_scheduler.config.prediction_type == "v_prediction"
    parts, _ = session.load_model(config.TrainingOptions(**given), "tiny", None)
    assert parts.noise_scheduler.alphas_cumprod[-1] > 0.004
    assert parts.noise_scheduler.config.prediction_type == "v_prediction"
