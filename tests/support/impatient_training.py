"""Training that gives wandb 5 seconds to answer, and no more: python -m support.impatient_training WORDS..."""

import training
from cli import launch
from tracking import trackers

if __name__ == "__main__":
    trackers.REACHED = 5
    launch.run_script(training.main)
