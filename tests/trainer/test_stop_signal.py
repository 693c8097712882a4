"""A first signal is noted, a second one ends the process."""

import os
import signal
import sys

import pytest

from trainer.stop_signal import StopSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_ends(number, capsys):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.number is None
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert capsys.readouterr().out == (
        f"\n{number.name}: finishing this update, then saving; once more to leave at once\n"
    )


def test_the_terminal_goes(monkeypatch):
    """Both kernel and shell may send SIGHUP, and printing fails from then on: the run stops once, and can save."""
    ours, terminal = os.openpty()
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
    with open(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with StopSignal() as stop:
            os.close(ours)
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number == signal.SIGHUP
            print("saved", flush=True)
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_goes_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
