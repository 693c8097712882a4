"""What is said of memory: the table of --plan, the forecast at a run's start, and what to do when it was too much."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import torch
from tqdm import tqdm

import config
from cli import checks, saved_options
from common.errors import UserError
from common.files import GIB
from diffusion import architecture as architectures
from memory.forecast import CUDA_CONTEXT, KINDS, forecast_memory

DEFAULT_VRAM_GIB = 12.0  # GiB, where there is no GPU to ask
TIGHT_FRACTION = 0.87  # of the card. Figures from real GPUs are up to 1.15 times the forecast (bench/memory_check.py)


def vram_gib(options):
    """Memory of the GPU that is planned for, in GiB."""
    if options.vram_gb:
        return options.vram_gb
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GIB
    return float(options.preset.removesuffix("gb")) if options.preset else DEFAULT_VRAM_GIB


# ---------------------------------------------------------------------------------------------------------------------
# Less memory


def remedies(options):
    """Changes {option: value} that may need less memory, those first that change least of what is learned."""
    changes = [
        {"grad_ckpt": True},  # the same numbers, later
        {"num_samples": 1, "vae_tiling": True},  # smaller previews
        {"cache_latents": True},  # the same numbers but for rounding
        {"ema_device": "cpu"} if options.ema_decay else {},
        {"mixed_precision": "auto"},
        {"optimizer": "adamw8bit"},
        *smaller_batches(options),
        {"fused_backward": True},  # clips each weight's gradient by itself
        {"weights_dtype": "bf16"},
        {"fused_backward": True, "weights_dtype": "bf16"},
        {"train_unet": not options.train_text_encoder},
    ]
    news = [{name: value for name, value in c.items() if getattr(options, name) != value} for c in changes]
    return [change for i, change in enumerate(news) if change and change not in news[:i]]


def smaller_batches(options):
    """The same updates in more and smaller batches: each time the largest divisor, down to 1.

    With --fused_backward an update has one batch: smaller updates.
    """
    size, changes = options.batch_size, []
    while size > 1:
        size = max(n for n in range(1, size) if size % n == 0)
        more = 1 if options.fused_backward else options.batch_size // size
        changes.append({"batch_size": size, "grad_acc_steps": options.grad_acc_steps * more})
    return changes


def format_options(change):
    """--batch_size 2 --grad_acc_steps 2"""
    return " ".join(f"--{name} {value}" for name, value in change.items())


def suggest(options, architecture, room, only=None):
    """([(change, peak bytes)], (change, peak bytes)): each remedy alone that saves something, and a set of remedies
    with which `room` bytes are enough, few and mild ones first; None if all together need more.

    only: names of options that may change; None: any.
    """
    with tqdm(desc="tracing", unit=" configurations", leave=False, delay=3) as bar:

        def peak(change):
            """Bytes; infinite if the change does not go together with the other options."""
            bar.update()
            try:
                changed = checks.check(dataclasses.replace(options, **change))
            except UserError:
                return math.inf
            return forecast_memory(changed, architecture).peak

        def allowed(changes):
            return [change for change in changes if only is None or set(change) <= set(only)]

        # One is enough?
        now, candidates = peak({}), allowed(remedies(options))
        alone = [(change, less) for change in candidates if (less := peak(change)) < now]
        milder = [change for change in candidates if "train_unet" not in change]
        for change, less in alone:
            if less <= room and change in milder:
                return alone, (change, less)

        # One after another; then, the harshest first: is it needed still?
        chosen = []
        for change in milder * 2:  # again, since what saved nothing may, after another
            if now > room and (less := peak(merged([*chosen, change]))) < now:
                chosen, now = [*chosen, change], less
        if now <= room:
            for change in reversed(chosen):
                others = [other for other in chosen if other is not change]
                if peak(merged(others)) <= room:
                    chosen = others
            return alone, (merged(chosen), peak(merged(chosen)))

        # All that there is
        for change in allowed(last_resorts(options)):
            if (less := peak(change)) <= room:
                return alone, (change, less)
        return alone, None


def last_resorts(options):
    """Changes {option: value} that need least of all: as the smallest preset, then Adafactor, then no UNet."""
    smallest = {**config.PRESETS["6gb"], "grad_acc_steps": 1, "num_samples": 1, "mixed_precision": "auto"}
    changes = [smallest, {**smallest, "optimizer": "adafactor"}]
    if options.train_unet and options.train_text_encoder:
        changes += [{"train_unet": False}, {**smallest, "train_unet": False}]
    return [{name: value for name, value in c.items() if getattr(options, name) != value} for c in changes]


def merged(changes):
    """One change of many; of two values of an option the later counts."""
    return {name: value for change in changes for name, value in change.items()}


# ---------------------------------------------------------------------------------------------------------------------
# --plan


def print_plan(options):
    """Print the plan, as a table or as JSON. Returns the exit status: 0, whether or not it fits."""
    architecture = architectures.of_source(options.pretrained_model)
    forecast, card = forecast_memory(options, architecture), vram_gib(options)
    fits = forecast.peak <= card * GIB
    alone, enough = ([], None) if fits or hopeless(forecast, card) else suggest(options, architecture, card * GIB)
    told = forecast, card, alone, enough
    print(as_json(*told) if options.json else as_table(*told, options.weights_dtype))
    return 0


def hopeless(forecast, card):
    """Whether CUDA alone takes a card of that many GiB."""
    return card * GIB <= forecast.context


def as_json(forecast, card, alone, enough):
    def told(change, peak):
        saves = (forecast.peak - peak) / GIB
        return {"flags": format_options(change), "peak_gib": peak / GIB, "saves_gib": saves, "fits": peak <= card * GIB}

    plan = {
        "peak_gib": forecast.peak / GIB,
        "vram_gib": card,
        "fits": forecast.peak <= card * GIB,
        "tight": TIGHT_FRACTION * card * GIB < forecast.peak <= card * GIB,
        "phase": forecast.worst,
        "parts": {part: size / GIB for part, size in forecast.parts.items()},
        "phases": {phase: forecast.total(phase) / GIB for phase in forecast.phases},
        "suggestions": [told(*suggestion) for suggestion in alone],
        "enough": told(*enough) if enough else None,
    }
    return json.dumps(plan, indent=1)


def as_table(forecast, card, alone, enough, weights_dtype):
    lines = ["GiB at the highest moment of " + "".join(f"{phase:>12}" for phase in forecast.phases)]
    for part in KINDS:
        lines.append(f"  {part:<27}" + "".join(f"{sizes[part] / GIB:12.2f}" for sizes in forecast.phases.values()))
    lines.append(f"  {'CUDA context, an allowance':<27}" + f"{forecast.context / GIB:12.2f}" * len(forecast.phases))
    lines.append(f"  {'all':<27}" + "".join(f"{forecast.total(phase) / GIB:12.2f}" for phase in forecast.phases))
    fits = forecast.peak <= card * GIB
    verdict = (
        ("it fits" if forecast.peak <= TIGHT_FRACTION * card * GIB else "it just fits") if fits else "it does not fit"
    )
    lines.append(f"peak: {forecast.peak / GIB:.2f} GiB, in {forecast.worst}; {verdict} into {card:.2f} GiB")
    if verdict == "it just fits":
        lines.append("that is tight: fragmentation, which no forecast knows, may need 15 % more")
    width = max((len(format_options(change)) for change, _ in alone), default=0)
    for change, peak in alone:
        word = "fits" if peak <= card * GIB else "not yet"
        saved = (forecast.peak - peak) / GIB
        lines.append(f"  {format_options(change):<{width}}{peak / GIB:8.2f} GiB, {saved:.2f} less: {word}")
    if enough:
        lines.append(f"enough: {format_options(enough[0])}, which needs {enough[1] / GIB:.2f} GiB")
    elif hopeless(forecast, card):
        lines.append("CUDA alone takes that: no option can help")
    elif not fits:
        lines.append("all of these together are not enough: give a lower --resolution")
    if weights_dtype == "bf16" or (enough and enough[0].get("weights_dtype") == "bf16"):
        lines.append("bf16 weights need a GPU that computes in bf16, such as an RTX 30xx or later")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# In a run


def announce_forecast(options, parts, device):
    """Print the one-line forecast of a run that starts, and return it; None if there can't be one.

    It is traced here even where it was not kept: that takes seconds, as much as a few updates.
    """
    try:
        forecast = forecast_memory(options, architectures.of_networks(parts), device.type)
    except Exception as problem:  # such as an operator that fake tensors do not know: no reason not to train
        print(f"memory: no forecast ({' '.join(str(problem).split())[:200]})", file=sys.stderr)
        return None
    peak = f"{forecast.peak / GIB:.2f} GiB" if forecast.peak > GIB / 10 else f"{forecast.peak / 2**20:.1f} MiB"
    line = f"memory: about {peak} expected at most, in {forecast.worst}"
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device).total_memory
        line += f", of {card / GIB:.2f}"
        if forecast.peak > card:
            line += "; the same command with --plan says which flags would bring it under"
        elif forecast.peak > TIGHT_FRACTION * card:
            line += "; that is tight"
    else:
        line += ", beside the program itself"
    print(line)
    return forecast


def compare_with_measured(forecast, device, optimizer):
    """The forecast beside what was measured on a GPU: tensors beside tensors, and what torch held.

    optimizer: --optimizer; paged moments are the driver's, and torch does not count them.
    """
    tensors, held = torch.cuda.max_memory_allocated(device) / GIB, torch.cuda.max_memory_reserved(device) / GIB
    paged = forecast.parts["optimizer"] if optimizer == "paged_adamw8bit" else 0
    foreseen = (forecast.peak - forecast.context - paged) / GIB
    return (
        f"memory: {tensors:.2f} GiB of tensors at most, {foreseen:.2f} were expected; torch held {held:.2f} GiB for "
        f"them, and the CUDA context takes about {forecast.context / GIB:.2f} more"
        + (f", paged moments {paged / GIB:.2f}" if paged else "")
    )


def out_of_memory(options, parts, run):
    """The UserError for a GPU that was too small: which options would have fitted, and how to go on.

    parts: of the model, or None if it was not loaded yet. run: the run's folder, or None if there is none yet.
    """
    print("the GPU's memory is full; looking for flags that fit ...", file=sys.stderr)
    free = config.option_names(options, "resume", "free")
    window = options.batch_size * options.grad_acc_steps
    enough = None
    try:
        architecture = architectures.of_networks(parts) if parts else architectures.of_source(options.pretrained_model)
        peak = forecast_memory(options, architecture).peak
        there = min(available_bytes(options), 0.95 * peak)  # if it should have fitted: a bit less
        for only in ([free] if run else []) + [None]:
            _, enough = suggest(options, architecture, there, only)
            changed = dataclasses.replace(options, **enough[0]) if enough else options
            goes_on = only is not None and changed.batch_size * changed.grad_acc_steps == window
            if enough and (goes_on or only is None):
                break
    except (UserError, RuntimeError):
        enough = None
    if not enough:
        return UserError(
            "the GPU's memory is full: use a lower --resolution, or see what other options need with --plan"
        )
    change, less = enough
    if goes_on:
        return UserError(
            f"the GPU's memory is full: about {peak / GIB:.1f} GiB are needed; go on, with about {less / GIB:.1f} GiB, "
            f"with: {saved_options.command_for_run('training', options, run)} {format_options(change)}"
        )
    return UserError(
        f"the GPU's memory is full: about {peak / GIB:.1f} GiB are needed; start a new run with "
        f"{format_options(change)}, which needs about {less / GIB:.1f} GiB"
    )


def available_bytes(options):
    """Bytes that this process can have on its GPU: what is free, what it holds, and its context."""
    if not torch.cuda.is_available():
        return vram_gib(options) * GIB
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() + CUDA_CONTEXT
