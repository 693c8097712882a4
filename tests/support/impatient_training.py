"""Training that gives wandb 5 seconds to answer, and no more: python -m support.impatient_training WORDS..."""

import command_line
import trackers
import training

if __name__ == "__main__":
    trackers.REACHED = 5
    command_line.run_script(training.main)
