"""Fine-tune the UNet and/or the CLIP text encoder of Stable Diffusion 1.x on book covers: start, stop, resume.

What a run does is a function of (options, training state): the state counts optimizer updates, and data order, noise,
timesteps, prompts and learning rate are computed from that count. So a run that was killed anywhere and resumed from
its last save ends, on a CPU, with the very bits of a run left alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import config
from cli import checks, launch, parser, saved_options
from common.errors import UserError
from common.terminal import is_closed

if TYPE_CHECKING:
    from checkpoints.run_folder import RunFolder


def main(argv: list[str] | None = None) -> int:
    """Start a run or resume one. Returns the exit status: 0 done, 130/143 stopped by a signal after saving."""
    given = parser.read_command_line(config.TrainingOptions, argv)
    resuming = given.get("run_id") is not None
    if not resuming:  # a resumed run is checked with the options that it has already
        checks.check(config.TrainingOptions(**given))

    # Heavy imports from here on: --help and mistakes on the command line do not wait for them
    from trainer import resume

    if resuming:
        options, run = resume.find_run_to_resume(given)
    else:
        options, run = config.TrainingOptions(**given), None
    if options.plan:
        from memory import advice

        return advice.print_plan(options)
    return run_training(resume.with_tracker(options), run, argv)


def run_training(options: config.TrainingOptions, run: RunFolder | None, argv: list[str] | None) -> int:
    """Train a run until it is complete or stopped; returns the exit status. run: None for a new one."""
    launch.launch_on_gpus(options.num_gpus, __file__, argv)

    from common.device_errors import full_memory
    from memory import advice
    from trainer.loop import train
    from trainer.session import prepare, start
    from trainer.stop_signal import StopSignal

    prepared = forecast = None
    try:
        prepared = prepare(options, run)
        with prepared.lock:
            if prepared.accelerator.is_main_process and not prepared.complete:
                forecast = advice.announce_forecast(options, prepared.parts, prepared.accelerator.device)
            session = start(prepared)
            # StopSignal ends first, so that Ctrl-C interrupts the uploader's last wait
            with session.uploader, StopSignal() as stop:
                status = train(session, stop)
                if forecast and prepared.accelerator.device.type == "cuda":
                    print(advice.compare_with_measured(forecast, prepared.accelerator.device, options.optimizer))
                return status
    except Exception as problem:
        if prepared and isinstance(problem, BrokenPipeError) and is_closed(sys.stdout):
            command = saved_options.command_for_run("training", options, prepared.run)
            raise UserError(f"nobody reads any more what training prints; go on with: {command}") from None
        if not (memory := full_memory(problem)):
            raise
        parts = prepared.parts if prepared else None
        raise advice.out_of_memory(options, parts, prepared.run if prepared else run, memory) from None


if __name__ == "__main__":
    launch.run_script(main)
