"""Finds the version of a model that --run_id and --version name, with the options of its run, and loads it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch

import config
from checkpoints import catalog
from checkpoints.run_folder import RunFolder
from cli import saved_options
from common.errors import UserError
from common.files import read_json
from diffusion import encoding, pipeline, sampling, weights
from diffusion.parts import Parts
from diffusion.placement import resolve_precision, to_device
from tracking import artifacts


@dataclasses.dataclass(frozen=True)
class Version:
    """A model to draw with."""

    name: str  # v0, v1, ... or the name of a folder
    source: str  # hub id, folder or built-in model, for diffusion.pipeline.load_parts
    run: RunFolder | None


def choose_version(
    options: config.InferenceOptions, given: Mapping[str, Any]
) -> tuple[config.InferenceOptions, Version]:
    """(options, version) that --run_id and --version name; options that were not given come from the version's run.

    given: the options on the command line. A version that is not on disk is fetched from the run's tracker. UserError
    if there is no such version, or if its run started from another model than --pretrained_model.
    """
    if options.run_id:
        options = fetch_missing(options, given)
    name, source, run = catalog.resolve_version(
        options.output_dir, options.run_id, options.version, options.pretrained_model
    )
    if run:
        saved = config.find_paths(config.InferenceOptions, read_json(run.config), run.config)
        started_from = saved.get("pretrained_model")
        (field,) = (f for f in dataclasses.fields(options) if f.name == "pretrained_model")
        asked = config.absolute_path(field, given.get("pretrained_model", started_from))
        moved = bool(options.run_id) and asked != started_from and config.is_gone(field, started_from)
        if moved and name == "v0":
            source = options.pretrained_model  # the same model in another place
        if moved or asked == started_from:
            names = config.option_names(config.InferenceOptions, "inherited", True)
            options = saved_options.inherit(config.InferenceOptions, run.config, given, names)
        elif name == "v0" and not options.run_id:
            source, run = options.pretrained_model, None  # the model itself is meant, not the start of the newest run
        else:
            raise UserError(
                f"run {run.name} started from {started_from}, not from --pretrained_model {options.pretrained_model}: "
                "leave it out, or draw with that model itself by --version v0 without --run_id"
            )
    return options, Version(name, source, run)


def fetch_missing(options: config.InferenceOptions, given: Mapping[str, Any]) -> config.InferenceOptions:
    """Fetches the version from the run's tracker if it is not on disk; returns the options with that tracker."""
    saved = catalog.run_folder(options.output_dir, options.run_id).config
    options = saved_options.inherit_tracker(config.InferenceOptions, saved, given)
    if config.tracker(options) in config.STORES and re.fullmatch(catalog.VERSION_NAME, options.version):
        artifacts.fetch_version(options, options.run_id, options.version)
    return options


def require_drawable(options: config.InferenceOptions, version: Version) -> None:
    """UserError, before anything long, unless --scheduler can draw with this version in --steps."""
    schedule = pipeline.load_schedule(version.source)
    if schedule is not None:
        sampling.require_drawable(schedule, options.scheduler, options.steps)


def load_version(options: config.InferenceOptions, source: str, device: torch.device) -> tuple[Parts, str]:
    """(the version's networks on the device, ready to draw, in half precision on a GPU; the hash of its weights)."""
    precision = resolve_precision(options.mixed_precision)
    with catalog.reading_version(source):
        parts = pipeline.load_parts(source)
    encoding.require_clip_skip(parts.text_encoder.config.num_hidden_layers, options.clip_skip)
    weights_hash = weights.weights_hash(parts)
    return to_device(parts, device, precision), weights_hash
