"""Training that gives wandb 5 seconds to answer, and no more: python -m support.impatient_training WORDS..."""

import training
from cli import launch
from tracking import wandb_tracker

if __name__ == "__main__":
    wandb_tracker.CONNECT_TIMEOUT = 5
    launch.run_script(training.main)
