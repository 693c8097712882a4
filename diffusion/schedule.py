"""The noise schedule that a model is trained and drawn on: that of its scheduler, or as options change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers

from common.errors import UserError
from diffusion.sampling import make_sampler


def changed_config(
    schedule: Mapping[str, Any], prediction_type: str = "auto", zero_terminal_snr: bool = False
) -> dict[str, Any]:
    """The configuration of a scheduler, with another prediction_type unless that is auto, and zero terminal SNR if it
    is asked for.

    UserError for zero terminal SNR with a model that predicts epsilon: at the last timestep its input is the very
    noise that it should predict, and no picture follows from that.
    """
    changed = dict(schedule)
    if prediction_type != "auto":
        changed["prediction_type"] = prediction_type
    if zero_terminal_snr:
        changed["rescale_betas_zero_snr"] = True
        if changed.get("prediction_type", "epsilon") != "v_prediction":
            raise UserError(
                f"--zero_terminal_snr needs v-prediction, and this model predicts "
                f"{changed.get('prediction_type', 'epsilon')}: give --prediction_type v_prediction, which teaches it "
                "that, and takes long training; or leave --zero_terminal_snr out"
            )
    return changed


def change_schedule(
    scheduler: diffusers.SchedulerMixin, prediction_type: str = "auto", zero_terminal_snr: bool = False
) -> diffusers.SchedulerMixin:
    """The scheduler itself, if nothing is to change; else one with changed_config.

    Zero terminal SNR makes it a DDIMScheduler, since the classes that models come with (PNDM) do not know it: betas
    rescaled by algorithm 1 of Lin et al., arXiv:2305.08891, timesteps that begin at the last one ("trailing"). So
    diffusers draws a version right without being told.
    """
    changed = changed_config(scheduler.config, prediction_type, zero_terminal_snr)
    if zero_terminal_snr:
        return make_sampler(changed, "ddim")
    if changed == dict(scheduler.config):
        return scheduler
    return type(scheduler).from_config(scheduler.config, prediction_type=changed["prediction_type"])


def change_notes(before: Mapping[str, Any], after: Mapping[str, Any], trained: Sequence[str]) -> list[str]:
    """Lines on what a new run changes of its model's schedule.

    before, after: configurations of the scheduler; trained: names of the parts that are trained.
    """
    old, new = (schedule.get("prediction_type", "epsilon") for schedule in (before, after))
    rescaled = after.get("rescale_betas_zero_snr") and not before.get("rescale_betas_zero_snr")
    notes = []
    if old != new:
        notes.append(
            f"note: the model says that it predicts {old}, and is trained to predict {new}: unless it has learned that "
            "before, it draws noise until after long training, thousands of updates of the UNet"
            + ("" if "unet" in trained else ", which needs --train_unet True")
            + ("" if rescaled else "; what it draws as it is: --version v0 --prediction_type auto")
        )
    if rescaled:
        notes.append(
            "note: zero terminal SNR: this run, its previews and its versions have the rescaled noise schedule; v0 is "
            "drawn as the pretrained model is"
        )
    return notes
