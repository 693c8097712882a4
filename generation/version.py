"""Finds the version of a model that --run_id and --version name, with the options of its run, and loads it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch

import config
from checkpoints import catalog
from checkpoints.run_folder import RunFolder
from cli import saved_options
from common.errors import UserError
from common.files import read_json
from diffusion import encoding, lora_file, pipeline, sampling, weights
from diffusion.parts import Parts
from diffusion.placement import resolve_precision, to_device
from diffusion.schedule import change_schedule, changed_config
from tracking import artifacts

Options = TypeVar("Options", config.InferenceOptions, config.ExportOptions)


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
            if saved.get("zero_terminal_snr"):  # v0 is drawn as its model is, and later versions say what they predict
                names.remove("prediction_type")
            options = saved_options.inherit(config.InferenceOptions, run.config, given, names)
        elif name == "v0" and not options.run_id:
            source, run = options.pretrained_model, None  # the model itself is meant, not the start of the newest run
        else:
            raise UserError(
                f"run {run.name} started from {started_from}, not from --pretrained_model {options.pretrained_model}: "
                "leave it out, or draw with that model itself by --version v0 without --run_id"
            )
    return options, Version(name, source, run)


def fetch_missing(options: Options, given: Mapping[str, Any]) -> Options:
    """Fetches the version from the run's tracker if it is not on disk; returns the options with that tracker."""
    saved = catalog.run_folder(options.output_dir, options.run_id).config
    options = saved_options.inherit_tracker(type(options), saved, given)
    if config.tracker(options) in config.STORES and re.fullmatch(catalog.VERSION_NAME, options.version):
        artifacts.fetch_version(options, options.run_id, options.version)
    return options


def require_drawable(options: config.InferenceOptions, version: Version) -> None:
    """UserError, before anything long, unless --scheduler can draw with this version in --steps, and with --lora."""
    if options.lora:
        lora_file.require_lora_file(options.lora)
    elif options.lora_scale != 1 and not pipeline.has_lora(version.source):
        raise UserError(
            f"--lora_scale {options.lora_scale:g}: {version.name} has no LoRA to scale (only versions of LoRA runs "
            "do): leave --lora_scale out, or give a LoRA file with --lora"
        )
    schedule = pipeline.load_schedule(version.source, options.prediction_type)
    if schedule is not None:
        sampling.require_drawable(changed_config(schedule, options.prediction_type), options.scheduler, options.steps)


def load_version(options: config.InferenceOptions, source: str, device: torch.device) -> tuple[Parts, str]:
    """(the version's networks on the device, ready to draw, in half precision on a GPU; the hash of their weights).

    --lora is merged into them. UserError if it is not for this model.
    """
    precision = resolve_precision(options.mixed_precision)
    with catalog.reading_version(source):  # its own LoRA, if it has one, is part of it where another one is added
        lora_scale = 1.0 if options.lora else options.lora_scale
        parts = pipeline.load_parts(source, prediction_type=options.prediction_type, lora_scale=lora_scale)
    if options.lora:
        lora_file.merge_lora(parts, options.lora, options.lora_scale)
    parts.scheduler = change_schedule(parts.scheduler, options.prediction_type)
    encoding.require_clip_skip(parts.text_encoder.config.num_hidden_layers, options.clip_skip)
    weights_hash = weights.weights_hash(parts)
    return to_device(parts, device, precision), weights_hash
