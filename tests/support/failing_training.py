"""Training in which something goes wrong: python -m support.failing_training WHAT WORDS...

WHAT: `impatient`, workers have 4 seconds to answer; `cuda`, `user` and `bug`, such an error is raised in update 3.
"""

import sys

import training
from cli import launch
from common.errors import UserError
from trainer import loop, workers

ERRORS = {
    "cuda": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "user": UserError("nothing to be done"),
    "bug": ZeroDivisionError("division by zero"),
}


def main(what, *words):
    if what == "impatient":
        workers.ANSWER_SECONDS = 4
    else:
        apply_update = loop.apply_update

        def failing(optimizer, ema, step):
            if step == 2:
                raise ERRORS[what]
            apply_update(optimizer, ema, step)

        loop.apply_update = failing
    return training.main(list(words))


if __name__ == "__main__":
    launch.run_script(lambda: main(*sys.argv[1:]))
