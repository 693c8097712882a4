"""How every script begins in several processes, and how it ends: one line for a user's mistake, exit status 2."""

from __future__ import annotations

import logging
import os
import sys

from common.errors import UserError

# ---------------------------------------------------------------------------------------------------------------------
# How a script begins and ends


def launch_on_gpus(num_gpus, script, argv=None):
    """Run `script` again in num_gpus processes through `accelerate launch` and never return; nothing to do for one
    process, or inside a launched one. UserError if the machine has fewer GPUs."""
    if num_gpus == 1 or "LOCAL_RANK" in os.environ:
        return
    import torch

    if torch.cuda.device_count() < num_gpus:
        raise UserError(f"--num_gpus {num_gpus}: this machine has {torch.cuda.device_count()} that torch can use")
    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_gpus)]
    os.execv(sys.executable, [*words, script, *(sys.argv[1:] if argv is None else argv)])


def run_script(main):
    """Run a script's main() and leave: a UserError becomes one line on standard error and exit status 2."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of 4-bit kernels that we do not use
    try:
        code = main()
    except UserError as problem:
        # a DataLoader worker hands its error on inside the text of a traceback: the sentence is at the end
        print("error: " + " ".join(str(problem).rsplit("UserError: ", 1)[-1].split()), file=sys.stderr)
        code = 2
    except OSError as problem:  # BrokenPipeError: `... | head` closed our output, and nothing is wrong
        if isinstance(problem, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        else:
            print(f"error: {problem}", file=sys.stderr)
            code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
