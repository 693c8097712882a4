"""The processes that read batches ahead: they end when their use does, and what goes wrong with them is one line."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NoReturn

import torch

from common.errors import UserError, first_line
from trainer.losses import Batch

ANSWER_SECONDS = 300  # in which a batch must come: it takes a second, or a minute if a network file system is slow
END_SECONDS = 5  # in which killed processes end; one that is in a system call may take longer, and is not waited for
DIED = "DataLoader worker (pid"  # how torch's error begins when one does; it has no class for it
SHARED_MEMORY = ("shared memory", "Bus error", "No space left on device")  # in its errors when /dev/shm is full
OPEN_FILES = ("Too many open files", "ancdata")  # and at the limit of open files


@contextlib.contextmanager
def running_batches(loader: torch.utils.data.DataLoader, remedy: str) -> Iterator[Iterator[Batch]]:
    """The loader's batches, for the length of a `with` block, which ends its workers, however it is left.

    UserError if a worker can't start, dies, or does not answer. remedy: what to do then, for the message.
    """
    if not loader.num_workers:
        yield iter(loader)
        return
    others = set(multiprocessing.active_children())
    multiprocessing.util.get_temp_dir()  # workers share it then; a killed one would leave one of its own behind
    handler = signal.signal(signal.SIGALRM, no_answer)
    try:
        yield read_batches(loader, remedy)
    except RuntimeError as problem:  # in the midst of anything: torch raises it when the signal comes that one has died
        if not str(problem).startswith(DIED):
            raise
        raise failure(problem, remedy) from None
    finally:
        signal.signal(signal.SIGALRM, handler)
        kill(set(multiprocessing.active_children()) - others)


def read_batches(loader: torch.utils.data.DataLoader, remedy: str) -> Iterator[Batch]:
    """Start the loader's workers and yield its batches.

    The alarm takes the place of the loader's own timeout, which does not reach where this process waits for a stopped
    worker to hand over a tensor that it has announced.
    """
    batches = None
    while True:
        signal.setitimer(signal.ITIMER_REAL, ANSWER_SECONDS)
        try:
            batches = iter(loader) if batches is None else batches
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, EOFError, RuntimeError) as problem:
            if isinstance(problem, RuntimeError) and not any(
                text in str(problem) for text in (DIED, *SHARED_MEMORY, *OPEN_FILES)
            ):
                raise
            raise failure(problem, remedy) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        yield batch


def no_answer(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"no batch has come for {ANSWER_SECONDS} s; the disk or the network may hang")


def failure(problem: Exception, remedy: str) -> UserError:
    """The error that says in one line what torch's says about workers, and what to do."""
    text = str(problem)
    if any(words in text for words in SHARED_MEMORY):
        reason = "/dev/shm is too small or full"
    elif any(words in text for words in OPEN_FILES):
        reason = "too many open files, see ulimit -n"
    elif text.startswith(DIED):
        reason = f"{first_line(text.partition('. ')[0])}; memory may have run out"
    elif isinstance(problem, ConnectionError | EOFError):  # seen before the signal that one has died
        reason = f"one of them has died ({first_line(problem)}); memory may have run out"
    else:  # of an error inside a worker, the last line of its traceback
        reason = (text.strip().splitlines() or [type(problem).__name__])[-1]
    return UserError(f"the processes that read covers failed: {reason}; {remedy}")


def kill(workers: Iterable[multiprocessing.process.BaseProcess]) -> None:
    """End workers by SIGKILL: they have nothing to save, ignore SIGTERM, and may be stopped."""
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)  # torch's raises an error for each that dies
    try:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(END_SECONDS)
    finally:
        signal.signal(signal.SIGCHLD, handler)
