"""SIGINT, SIGTERM and SIGHUP while training: finish the update, save, leave."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from common.terminal import silence

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """While active, SIGINT, SIGTERM and SIGHUP are noted in `number` instead of ending the process; a second one ends
    it.

    SIGHUP comes when the terminal goes, by a lost connection, say, and may come from both the kernel and the shell: it
    only ever stops. Where it is ignored, as under nohup, it stays so.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> StopSignal:
        self.terminals = [stream for stream in (sys.stdout, sys.stderr) if stream and stream.isatty()]
        self.previous = {
            s: signal.signal(s, self.note)
            for s in SIGNALS
            if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            silence(*self.terminals)  # to print on one that is gone would be an error
        elif self.number:
            raise KeyboardInterrupt(number)  # with which the script's exit status is made
        if self.number:
            return
        self.number = number
        print(
            f"\n{signal.Signals(number).name}: finishing this update, then saving; once more to leave at once",
            flush=True,
        )
