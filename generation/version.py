"""--run_id and --version -> what to draw with."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import NamedTuple

import config
from checkpoints import catalog
from cli import saved_options
from common.errors import UserError
from common.files import read_json
from diffusion import pipeline, weights
from diffusion.placement import resolve_precision, to_device
from tracking import artifacts

SETTING_OPTIONS = {"precision": "mixed_precision"} | {  # setting -> its option
    name: name for name in ("seed", "resolution", "steps", "guidance_scale", "scheduler", "vae_tiling")
}


class Version(NamedTuple):
    """What to draw with."""

    name: str  # v0, v1, ... or a folder's name
    source: str  # for models.load_parts
    run: pathlib.Path | None  # its run's folder


# ---------------------------------------------------------------------------------------------------------------------
# Options -> Version


def choose_version(options, given):
    """(options, Version) of options.run_id and options.version; what was not given comes from the run.

    options: config.InferenceOptions; given: those that the user typed. A version that is not on disk is fetched from
    the run's tracker. UserError if there is no such version, or if it started from another model than was asked for.
    """
    if options.run_id:
        options = fetch_missing(options, given)
    name, source, run = catalog.resolve_version(
        options.output_dir, options.run_id, options.version, options.pretrained_model
    )
    if run:
        started_from = read_json(run / "config.json").get("pretrained_model")
        if given.get("pretrained_model", started_from) == started_from:
            options = saved_options.inherit(config.InferenceOptions, run / "config.json", given, inherited_options())
        elif name == "v0" and not options.run_id:
            source, run = options.pretrained_model, None  # the model itself was asked for, not the newest run's start
        else:
            raise UserError(
                f"run {run.name} started from {started_from}, not from --pretrained_model {options.pretrained_model}: "
                "leave it out, or draw with that model itself by --version v0 without --run_id"
            )
    return options, Version(name, source, run)


def fetch_missing(options, given):
    """The options, with the tracker that the run was started with; a version that is not on disk is fetched from it."""

    saved = catalog.run_path(options.output_dir, options.run_id) / "config.json"
    options = saved_options.inherit_tracker(config.InferenceOptions, saved, given)
    if config.tracker(options) in config.STORES and re.fullmatch(catalog.VERSION_NAME, options.version):
        artifacts.fetch_version(options, options.run_id, options.version)
    return options


def inherited_options():
    """Names of the options that come from the run unless they are given: its data, its previews and its tracker.

    Not vae_tiling, which changes pictures: what a small card needed in training must not show in the scores.
    """
    groups = (config.DataOptions, config.DrawingOptions, config.TrackingOptions)
    return {field.name for group in groups for field in dataclasses.fields(group)} - {"vae_tiling"} | {"seed"}


# ---------------------------------------------------------------------------------------------------------------------
# Version -> covers


def load_version(options, source, device):
    """(models.Parts of the version, ready to draw: half precision on a GPU; the hash of its weights)."""

    precision = resolve_precision(options.mixed_precision)
    parts = pipeline.load_parts(source)
    parts_hash = weights.weights_hash(parts)
    return to_device(parts, device, precision), parts_hash


def drawing_settings(options, version, parts_hash):
    """What determines a picture, less its prompt and its row. parts_hash: models.weights_hash."""

    return {
        "version": version.name,
        "run_id": version.run.name if version.run else None,
        "weights": parts_hash,
        "precision": resolve_precision(options.mixed_precision),
        **{name: getattr(options, name) for name in SETTING_OPTIONS if name not in ("precision", "vae_tiling")},
        "vae_tiling": options.vae_tiling or None,  # as in settings that were kept before there was this option
    }
