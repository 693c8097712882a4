"""Fine-tune the UNet and/or the CLIP text encoder of Stable Diffusion 1.x on book covers: start, stop, resume.

What a run does is a function of (options, training state): the state counts optimizer updates, and data order, noise,
timesteps, prompts and learning rate are computed from that count. So a run that was killed anywhere and resumed from
its last save ends, on a CPU, with the very bits of a run left alone.
"""

from __future__ import annotations

import dataclasses

import config
from cli import checks, launch, parser


def main(argv=None):
    """Start a run or resume one. Returns the exit status: 0 done, 130/143 stopped by a signal after saving."""
    given = parser.read_command_line(config.TrainingOptions, argv)
    if not given.get("run_id"):
        checks.check(config.TrainingOptions(**given))

    # Heavy libraries from here on: --help and mistakes on the command line do not wait for them
    import torch

    from memory import advice
    from tracking import trackers
    from trainer.loop import train
    from trainer.resume import find_run_to_resume
    from trainer.session import set_up
    from trainer.stop_signal import StopSignal

    options, run = find_run_to_resume(given) if given.get("run_id") else (config.TrainingOptions(**given), None)
    if options.plan:
        return advice.print_plan(options)
    if config.tracker(options) == "wandb":
        trackers.require_key(options)
        options = dataclasses.replace(options, tracker="wandb")  # so that a resumed run knows, and misses its key
    launch.launch_on_gpus(options.num_gpus, __file__, argv)

    session = None
    try:
        session = set_up(options, run)
        with session.lock, session.mirror, StopSignal() as stop:  # Ctrl-C leaves while the last uploads go on
            return train(session, stop)
    except torch.OutOfMemoryError:
        raise advice.out_of_memory(options, session, session.run if session else run) from None


if __name__ == "__main__":
    launch.run_script(main)
