"""Fine-tune the UNet and/or the CLIP text encoder of Stable Diffusion 1.x on book covers: start, stop, resume.

What a run does is a function of (options, training state): the state counts optimizer updates, and data order, noise,
timesteps, prompts and learning rate are computed from that count. So a run that was killed anywhere and resumed from
its last save ends, on a CPU, with the very bits of a run left alone.
"""

from __future__ import annotations

import config
from cli import checks, launch, parser


def main(argv=None):
    """Start a run or resume one. Returns the exit status: 0 done, 130/143 stopped by a signal after saving."""
    given = parser.read_command_line(config.TrainingOptions, argv)
    if not given.get("run_id"):
        checks.check(config.TrainingOptions(**given))

    # The body: heavy libraries, for which --help and mistakes on the command line do not wait
    from trainer import resume

    options, run = resume.find_run_to_resume(given) if given.get("run_id") else (config.TrainingOptions(**given), None)
    if options.plan:
        from memory import advice

        return advice.print_plan(options)
    return run_training(resume.with_tracker(options), run, argv)


def run_training(options, run, argv):
    """Train a run until it is complete or stopped. run: its folder, or None for a new one. Returns the exit status."""
    import torch

    from memory import advice
    from trainer.loop import train
    from trainer.session import prepare, start
    from trainer.stop_signal import StopSignal

    launch.launch_on_gpus(options.num_gpus, __file__, argv)
    prepared = forecast = None
    try:
        prepared = prepare(options, run)
        with prepared.lock:
            if prepared.accelerator.is_main_process and not prepared.complete:
                forecast = advice.announce_forecast(options, prepared.parts, prepared.accelerator.device)
            session = start(prepared)
            with session.uploader, StopSignal() as stop:  # Ctrl-C leaves while the uploader is finishing
                status = train(session, stop)
                if forecast and prepared.accelerator.device.type == "cuda":
                    print(advice.compare_with_measured(forecast, prepared.accelerator.device, options.optimizer))
                return status
    except torch.OutOfMemoryError:
        parts, run = (prepared.parts, prepared.run) if prepared else (None, run)
        raise advice.out_of_memory(options, parts, run) from None


if __name__ == "__main__":
    launch.run_script(main)
