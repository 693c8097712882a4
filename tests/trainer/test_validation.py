"""The validation loss: the mean over the held-out covers, and over each quarter of the timesteps."""

import types

import pytest
import torch

from diffusion.noise import stratified_timesteps
from trainer.validation import validate


class Objective:
    """Its loss of a cover is the cover's number plus its timestep / 1000; notes the noise that it is given."""

    noise_scheduler = types.SimpleNamespace(config=types.SimpleNamespace(num_train_timesteps=1000))

    def __init__(self):
        self.noise = []

    def latent_shape(self, batch):
        return (4, 2, 2)

    def losses(self, batch, posterior_noise, noise, timesteps):
        assert posterior_noise.shape == noise.shape == (len(timesteps), 4, 2, 2)
        assert not torch.equal(posterior_noise, noise)
        self.noise += list(noise)
        return batch["cover"] + timesteps / 1000


class Covers(list):
    def __init__(self, count):
        super().__init__({"cover": torch.tensor(float(i))} for i in range(count))
        self.sizes = [((64, 96), (96, 64))[i % 2] for i in range(count)]


def session(count, batch_size):
    network = torch.nn.Linear(1, 1)
    networks = dict(unet=network, text_encoder=network)
    parts = types.SimpleNamespace(**networks, networks=networks)
    accelerator = types.SimpleNamespace(
        device=torch.device("cpu"),
        process_index=0,
        num_processes=1,
        is_main_process=True,
        reduce=lambda tensor, _: tensor,
    )
    options = types.SimpleNamespace(seed=1, batch_size=batch_size)
    return types.SimpleNamespace(
        accelerator=accelerator, objective=Objective(), val_set=Covers(count), options=options, ema=None, parts=parts
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_mean_of_all_and_of_each_quarter(batch_size):
    made = session(9, batch_size)
    mean, quarters = validate(made)
    losses = torch.arange(9.0) + stratified_timesteps(9, 1000) / 1000
    assert mean == pytest.approx(losses.mean().item(), rel=1e-6)
    assert quarters == pytest.approx([losses[part].mean().item() for part in ([0, 1], [2, 3], [4, 5, 6], [7, 8])])
    assert made.parts.unet.training  # as before


def test_noise_is_always_the_same():
    first, second = session(5, 2), session(5, 1)
    assert validate(first) == validate(second)
    assert len(first.objective.noise) == 5
    assert all(torch.equal(a, b) for a, b in zip(first.objective.noise, second.objective.noise, strict=True))


def test_three_covers_have_no_quarters():
    assert validate(session(3, 2))[1] == []
