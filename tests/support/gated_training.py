"""Training that waits before an update until a file is there: python -m support.gated_training WORDS...

The environment says which: GATE_STEP, updates that are done by then, and GATE_FILE. wandb gets 5 seconds to answer.
"""

import os
import pathlib
import time

import training
from cli import launch
from tracking import wandb_tracker
from trainer import loop


def main():
    wandb_tracker.CONNECT_TIMEOUT = 5
    step_of_gate, file, apply_update = int(os.environ["GATE_STEP"]), os.environ["GATE_FILE"], loop.apply_update

    def gated(optimizer, ema, step):
        while step == step_of_gate and not pathlib.Path(file).exists():
            time.sleep(0.02)
        apply_update(optimizer, ema, step)

    loop.apply_update = gated
    return training.main()


if __name__ == "__main__":
    launch.run_script(main)
