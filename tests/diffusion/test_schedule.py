"""The noise schedule as options change it: prediction_type, zero terminal SNR."""

import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

import config
from checkpoints import versions
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from diffusion import pipeline, sampling
from diffusion.schedule import change_notes, change_schedule, changed_config
from diffusion.trainable import set_trainable

SD15 = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


@pytest.fixture
def version(tmp_path):
    """A saved version of `tiny` with zero terminal SNR."""
    parts = pipeline.build_tiny().freeze()
    parts.scheduler = change_schedule(parts.scheduler, "v_prediction", zero_terminal_snr=True)
    run, trainable = RunFolder(tmp_path / "run"), set_trainable(parts, ["unet"])
    versions.save_frozen(run, parts, trainable, "fp32")
    versions.save_version(run, "v1", trainable, "fp32")
    return run.version("v1")


def test_nothing_changes_unless_it_is_asked_for():
    scheduler = PNDMScheduler(**SD15)
    assert change_schedule(scheduler) is scheduler and change_schedule(scheduler, "epsilon") is scheduler
    assert change_notes(scheduler.config, scheduler.config, []) == []


def test_the_prediction_type_of_a_scheduler_of_any_class():
    for cls in (PNDMScheduler, EulerDiscreteScheduler):
        scheduler = cls(**SD15)
        changed = change_schedule(scheduler, "v_prediction")
        assert type(changed) is cls and changed.config.prediction_type == "v_prediction"
        assert torch.equal(changed.alphas_cumprod, scheduler.alphas_cumprod)
        assert change_schedule(changed, "v_prediction") is changed
        (note,) = change_notes(scheduler.config, changed.config, ["unet"])
        assert "predicts epsilon, and is trained to predict v_prediction" in note and "--prediction_type auto" in note
        assert "--train_unet True" not in note
        assert "--train_unet True" in change_notes(scheduler.config, changed.config, ["text_encoder"])[0]


def test_zero_terminal_snr_is_algorithm_1_once():
    """Of arXiv:2305.08891, as diffusers has it, and written out; also when a run is resumed, from its own version."""
    scheduler = PNDMScheduler(**SD15)
    once = change_schedule(scheduler, "v_prediction", zero_terminal_snr=True)
    roots = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2) ** 0.5
    wanted = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    for changed in (once, change_schedule(once, "v_prediction", zero_terminal_snr=True)):
        training = diffusers.DDPMScheduler.from_config(changed.config)  # Parts.noise_scheduler
        assert np.allclose(training.alphas_cumprod, wanted, atol=1e-6) and training.alphas_cumprod[-1] == 0
        assert torch.equal(training.betas, rescale_zero_terminal_snr(diffusers.DDPMScheduler(**SD15).betas))
    assert [note[:40] for note in change_notes(scheduler.config, once.config, ["unet"])] == [
        "note: the model says that it predicts ep",
        "note: zero terminal SNR: this run, its p",
    ]


@pytest.mark.parametrize("prediction_type", ["auto", "epsilon"])
def test_zero_terminal_snr_with_epsilon_is_refused(prediction_type):
    with pytest.raises(UserError, match="needs v-prediction, and this model predicts epsilon: give --prediction_type"):
        changed_config({}, prediction_type, zero_terminal_snr=True)  # a file may leave it open
    changed_config({"prediction_type": "v_prediction"}, "auto", zero_terminal_snr=True)


def test_a_version_says_how_it_is_drawn(version):
    saved = json.loads((version / "scheduler" / "scheduler_config.json").read_text())
    wanted = dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    assert {name: saved.get(name) for name in wanted} == wanted
    index = json.loads((version / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    again = pipeline.load_parts(str(version))
    assert again.noise_scheduler.alphas_cumprod[-1] == 0
    assert again.scheduler.config.prediction_type == "v_prediction"


def test_plain_diffusers_draws_such_a_version_as_we_do(version):
    parts = pipeline.load_parts(str(version))
    options = config.InferenceOptions(resolution="32x48", steps=5, scheduler="ddim")
    ours = sampling.draw_images(parts, ["a red book"], [3], options)[0].int()
    plain = diffusers.StableDiffusionPipeline.from_pretrained(version, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    assert isinstance(plain.scheduler, DDIMScheduler)
    latents = sampling.starting_latents(parts, 0, [3], (32, 48))
    settings = dict(width=32, height=48, num_inference_steps=5, guidance_scale=7.5, latents=latents)
    theirs = plain("a red book", output_type="np", **settings).images[0]
    assert (torch.from_numpy(theirs * 255).round().int() - ours).abs().max() <= 1
