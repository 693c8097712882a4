"""SIGINT and SIGTERM while training: finish the update, save, leave."""

from __future__ import annotations

import signal


class StopSignal:
    """While active, SIGINT and SIGTERM are noted in `number` instead of ending the process; a second one ends it."""

    def __init__(self):
        self.number = None

    def __enter__(self):
        self.previous = {s: signal.signal(s, self.note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def note(self, number, _frame):
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        print(
            f"\n{signal.Signals(number).name}: finishing this update, then saving; once more to leave at once",
            flush=True,
        )
