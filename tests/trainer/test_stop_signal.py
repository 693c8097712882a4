"""A first signal is noted, a second one ends the process."""

import os
import signal

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
