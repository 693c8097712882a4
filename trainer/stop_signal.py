"""SIGINT and SIGTERM while training: finish the update, save, leave."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignal:
    """While active, SIGINT and SIGTERM are noted in `number` instead of ending the process; a second one ends it."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> StopSignal:
        self.previous = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt(number)  # with which the script's exit status is made
        self.number = number
        print(
            f"\n{signal.Signals(number).name}: finishing this update, then saving; once more to leave at once",
            flush=True,
        )
