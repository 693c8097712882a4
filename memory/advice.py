"""Memory advice: the --plan table, the forecast at start, suggestions after out-of-memory."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

import config
from cli import saved_options
from common.device_errors import CPU_ADVICE
from common.errors import UserError
from common.files import GIB
from diffusion.architecture import Architecture, architecture_of, read_architecture
from diffusion.parts import Parts
from memory.forecast import CUDA_CONTEXT, KINDS, Forecast, forecast_memory
from memory.suggestions import Suggestion, suggest

DEFAULT_VRAM_GIB = 12.0  # of the GPU that is planned for, if there is none to ask
TIGHT_FRACTION = 0.87  # of the GPU's memory. Real GPUs needed up to 1.15 times the forecast (bench/memory_check.py)

# ---------------------------------------------------------------------------------------------------------------------
# --plan


def vram_gib(options: config.TrainingOptions) -> float:
    """Memory of the GPU that is planned for, in GiB: --vram_gb, else this machine's GPU, else the preset's."""
    if options.vram_gb:
        return options.vram_gb
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GIB
    return config.PRESET_GIB[options.preset] if options.preset else DEFAULT_VRAM_GIB


@dataclass(frozen=True)
class Plan:
    """What --plan prints: a forecast beside a GPU's memory, and what would help if it does not fit."""

    forecast: Forecast
    vram: float  # of the GPU, bytes
    single: list[Suggestion]  # each change that saves memory by itself
    sufficient: Suggestion | None  # changes that fit together
    weights_dtype: str  # of the trained weights, as planned

    @property
    def fits(self) -> bool:
        return self.forecast.peak <= self.vram

    @property
    def tight(self) -> bool:
        """Whether it fits, but fragmentation may need more."""
        return self.fits and self.forecast.peak > TIGHT_FRACTION * self.vram

    @property
    def hopeless(self) -> bool:
        """Whether the CUDA context alone fills the GPU."""
        return self.vram <= self.forecast.context


def print_plan(options: config.TrainingOptions) -> int:
    """Print the plan, as a table or as JSON. Returns the exit status: 0, whether or not it fits."""
    plan = make_plan(options)
    print(as_json(plan) if options.json else as_table(plan))
    return 0


def make_plan(options: config.TrainingOptions) -> Plan:
    """Forecast a run, and look for options that fit if it does not. UserError if the model is not available."""
    architecture = read_architecture(options.pretrained_model)
    forecast, vram = forecast_memory(options, architecture), vram_gib(options) * GIB
    plan = Plan(forecast, vram, [], None, options.weights_dtype)
    if plan.fits or plan.hopeless:
        return plan
    single, sufficient = suggest(options, architecture, vram)
    return dataclasses.replace(plan, single=single, sufficient=sufficient)


def as_json(plan: Plan) -> str:
    """The plan for programs; sizes in GiB."""
    forecast = plan.forecast

    def as_dict(suggestion: Suggestion) -> dict[str, Any]:
        return {
            "flags": suggestion.flags,
            "peak_gib": suggestion.peak / GIB,
            "saves_gib": (forecast.peak - suggestion.peak) / GIB,
            "fits": suggestion.peak <= plan.vram,
        }

    values = {
        "peak_gib": forecast.peak / GIB,
        "vram_gib": plan.vram / GIB,
        "fits": plan.fits,
        "tight": plan.tight,
        "phase": forecast.peak_phase,
        "parts": {kind: size / GIB for kind, size in forecast.breakdown.items()},
        "phases": {phase: forecast.total(phase) / GIB for phase in forecast.phases},
        "suggestions": [as_dict(suggestion) for suggestion in plan.single],
        "enough": as_dict(plan.sufficient) if plan.sufficient else None,
    }
    return json.dumps(values, indent=1)


def as_table(plan: Plan) -> str:
    """The plan for people: a table of phases and kinds in GiB, then the verdict and the suggestions."""
    return "\n".join([*phase_table(plan.forecast), *verdict_lines(plan), *suggestion_lines(plan)])


def phase_table(forecast: Forecast) -> list[str]:
    """A row for each kind of tensors, a column for each phase."""

    def row(name: str, sizes: Iterable[int]) -> str:
        return f"  {name:<27}" + "".join(f"{size / GIB:12.2f}" for size in sizes)

    phases = forecast.phases
    return [
        "GiB at the highest moment of " + "".join(f"{phase:>12}" for phase in phases),
        *(row(kind, (sizes[kind] for sizes in phases.values())) for kind in KINDS),
        row("CUDA context, an allowance", (forecast.context for _ in phases)),
        row("all", map(forecast.total, phases)),
    ]


def verdict_lines(plan: Plan) -> list[str]:
    """Whether it fits."""
    verdict = "it just fits" if plan.tight else "it fits" if plan.fits else "it does not fit"
    peak, phase = plan.forecast.peak / GIB, plan.forecast.peak_phase
    lines = [f"peak: {peak:.2f} GiB, in {phase}; {verdict} into {plan.vram / GIB:.2f} GiB"]
    if plan.fits:
        lines.append(
            f"that leaves {plan.vram / GIB - peak:.2f} GiB for fragmentation, which no forecast knows: real GPUs "
            f"needed up to 15 % more, {0.15 * peak:.2f} GiB"
        )
    if plan.tight:
        lines.append("that is tight")
    return lines


def suggestion_lines(plan: Plan) -> list[str]:
    """Each change by itself, what is sufficient, and what bf16 needs."""
    lines = []
    width = max((len(suggestion.flags) for suggestion in plan.single), default=0)
    for each in plan.single:
        saved, verdict = plan.forecast.peak - each.peak, "fits" if each.peak <= plan.vram else "not yet"
        lines.append(f"  {each.flags:<{width}}{each.peak / GIB:8.2f} GiB, {saved / GIB:.2f} less: {verdict}")
    if plan.sufficient:
        lines.append(f"enough: {plan.sufficient.flags}, which needs {plan.sufficient.peak / GIB:.2f} GiB")
    elif plan.hopeless:
        lines.append("CUDA alone takes that: no option can help")
    elif not plan.fits:
        lines.append("all of these together are not enough: give a lower --resolution")
    if "bf16" in (plan.weights_dtype, plan.sufficient and plan.sufficient.change.get("weights_dtype")):
        lines.append("bf16 weights need a GPU that computes in bf16, such as an RTX 30xx or later")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# During a run


def announce_forecast(options: config.TrainingOptions, parts: Parts, device: torch.device) -> Forecast | None:
    """Print the one-line forecast of a run that starts, and return it; None if the model can't be traced.

    It is traced even if it is not cached: that takes seconds, as long as a few updates.
    """
    try:
        forecast = forecast_memory(options, architecture_of(parts), device.type)
    except Exception as problem:  # such as an operator that meta tensors do not support: no reason not to train
        print(f"memory: no forecast ({' '.join(str(problem).split())[:200]})", file=sys.stderr)
        return None
    peak = f"{forecast.peak / GIB:.2f} GiB" if forecast.peak > GIB / 10 else f"{forecast.peak / 2**20:.1f} MiB"
    line = f"memory: about {peak} expected at most, in {forecast.peak_phase}"
    if device.type == "cuda":
        vram = torch.cuda.get_device_properties(device).total_memory
        line += f", of {vram / GIB:.2f}"
        if forecast.peak > vram:
            line += "; the same command with --plan says which flags would bring it under"
        elif forecast.peak > TIGHT_FRACTION * vram:
            line += "; that is tight"
    else:
        line += ", beside the program itself"
    print(line)
    return forecast


def compare_with_measured(forecast: Forecast, device: torch.device, optimizer: str) -> str:
    """One line: the forecast beside what was measured on a GPU: bytes of tensors, and what torch reserved for them.

    optimizer: --optimizer; paged moments are allocated by the driver, and torch does not count them.
    """
    tensors, reserved = torch.cuda.max_memory_allocated(device) / GIB, torch.cuda.max_memory_reserved(device) / GIB
    paged = forecast.breakdown["optimizer"] if optimizer == "paged_adamw8bit" else 0
    expected = (forecast.peak - forecast.context - paged) / GIB
    return (
        f"memory: {tensors:.2f} GiB of tensors at most, {expected:.2f} were expected; torch held {reserved:.2f} GiB "
        f"for them, and the CUDA context takes about {forecast.context / GIB:.2f} more"
        + (f", paged moments {paged / GIB:.2f}" if paged else "")
    )


def out_of_memory(
    options: config.TrainingOptions, parts: Parts | None, run: os.PathLike[str] | None, memory: str = "GPU"
) -> UserError:
    """The UserError for memory that was too small: which options would have fitted, and how to go on.

    parts: the model, or None if it was not loaded yet. run: the run's folder, or None if there is none yet. memory:
    whose it was, GPU or CPU.
    """
    if memory == "CPU" and torch.cuda.is_available():  # the forecast is that of the GPU
        return UserError(CPU_ADVICE)
    full = f"the {'GPU' if memory == 'GPU' else 'computer'}'s memory is full"
    print(f"{full}; looking for flags that fit ...", file=sys.stderr)
    to_resume = to_restart = None
    try:
        architecture = architecture_of(parts) if parts else read_architecture(options.pretrained_model)
        peak = forecast_memory(options, architecture).peak
        available = min(available_bytes(options), 0.95 * peak)  # if it should have fitted: less
        to_resume = suggest_to_resume(options, architecture, available) if run else None
        to_restart = None if to_resume else suggest(options, architecture, available)[1]
    except (UserError, RuntimeError):
        pass  # the model is not available, or can't be traced
    if to_resume and run:
        command = saved_options.command_for_run("training", options, pathlib.Path(run))
        return UserError(
            f"{full}: about {peak / GIB:.1f} GiB are needed; go on, with about "
            f"{to_resume.peak / GIB:.1f} GiB, with: {command} {to_resume.flags}"
        )
    if to_restart:
        return UserError(
            f"{full}: about {peak / GIB:.1f} GiB are needed; start a new run with "
            f"{to_restart.flags}, which needs about {to_restart.peak / GIB:.1f} GiB"
        )
    return UserError(f"{full}: use a lower --resolution, or see what other options need with --plan")


def suggest_to_resume(
    options: config.TrainingOptions, architecture: Architecture, available: float
) -> Suggestion | None:
    """A change that fits into `available` bytes and that a run can be resumed with; None if there is none."""
    free = config.option_names(options, "resume", "free")
    _, sufficient = suggest(options, architecture, available, free)
    if not sufficient:
        return None
    changed = dataclasses.replace(options, **sufficient.change)
    same_updates = changed.batch_size * changed.grad_acc_steps == options.batch_size * options.grad_acc_steps
    return sufficient if same_updates else None


def available_bytes(options: config.TrainingOptions) -> float:
    """Bytes that this process can use on its GPU: what is free, what it holds, and its CUDA context."""
    if not torch.cuda.is_available():
        return vram_gib(options) * GIB
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() + CUDA_CONTEXT
