"""How scripts start several processes, and how they end: a user's mistake is one line and exit status 2."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from common import device_errors
from common.errors import UserError
from common.processes import clean_environment, launched_processes, let_gpu_memory_grow
from common.terminal import is_closed, printable, replace_unencodable, silence

EXIT_SECONDS = 10  # after an error: what then still runs in threads, or is in a library's care, is cut off


def launch_on_gpus(num_gpus: int, script: str, argv: Sequence[str] | None = None) -> None:
    """Replace this process by num_gpus processes that run `script`, a path, through `accelerate launch`.

    Returns only if there is nothing to launch: one process is enough, or this one was launched already. argv: the
    script's arguments; None = sys.argv[1:]. UserError if the machine has fewer GPUs, or another number was launched.
    """
    if "LOCAL_RANK" in os.environ and num_gpus not in (1, count := launched_processes()):
        raise UserError(f"--num_gpus {num_gpus}, and the launcher has started {count}: leave --num_gpus out there")
    if num_gpus == 1 or "LOCAL_RANK" in os.environ:
        return
    import torch

    if torch.cuda.device_count() < num_gpus:
        raise UserError(f"--num_gpus {num_gpus}: this machine has {torch.cuda.device_count()} that torch can use")
    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_gpus)]
    os.execv(sys.executable, [*words, script, *(sys.argv[1:] if argv is None else argv)])


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's main() and exit with the status that it returns.

    UserError, OSError and errors of the device: one line on standard error, exit status 2. Ctrl-C: exit status 130.
    After an error nothing keeps the process for longer than EXIT_SECONDS.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about 4-bit kernels, which are not used here
    replace_unencodable()
    let_gpu_memory_grow()
    code: int | None
    try:
        launched_processes()
        for note in clean_environment():
            print_error(note)
        code = main()
        if sys.stdout:
            sys.stdout.flush()  # the interpreter's own, at exit, would show an error
    except UserError as problem:
        # a DataLoader worker passes its error on inside the text of a traceback, where the message comes last
        print_error("error: " + " ".join(str(problem).rsplit("UserError: ", 1)[-1].split()))
        code = 2
    except OSError as problem:
        # `... | head` has closed our output, which is no error; but a server may have closed a connection
        if isinstance(problem, BrokenPipeError) and is_closed(sys.stdout):
            silence(sys.stdout)
            code = 0
        else:
            print_error(f"error: {problem}")
            code = 2
    except KeyboardInterrupt as problem:  # StopSignal says by which signal
        print_error("interrupted")
        code = 128 + (problem.args[0] if problem.args else signal.SIGINT)
    except Exception as problem:
        error = None if os.environ.get("CUDA_LAUNCH_BLOCKING") else device_errors.explain(problem)
        if not error:  # the traceback is printed on the way out
            exit_soon(1)
            raise
        print_error(f"error: {error}")
        code = 2
    if code:
        exit_soon(code)
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
    sys.exit(code)


def print_error(line: str) -> None:
    """Print a line on standard error, if that is still there."""
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr)


def exit_soon(code: int) -> None:
    """Exit with this status in EXIT_SECONDS, unless the process has ended by then: a thread whose read hangs, or a
    library that waits for a server at exit, would keep it, and the GPU."""

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    timer = threading.Timer(EXIT_SECONDS, leave)
    timer.daemon = True
    timer.start()
