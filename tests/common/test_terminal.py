"""What is printed moves no cursor and can be printed anywhere; a pipe that nobody reads is known."""

import io
import os
import sys

import pytest

from common.terminal import is_closed, printable, replace_unencodable, silence


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("Čapek: R.U.R.\n\tPrague", "Čapek: R.U.R.\n\tPrague"),
        ("\x1b[2J\x1b[H gone", r"\x1b[2J\x1b[H gone"),
        ("over\rwritten\x08\x07", r"over\rwritten\x08\x07"),
        ("\x9b31m red \x7f", r"\x9b31m red \x7f"),
        ("abc\u202edcb", r"abc\u202edcb"),
    ],
)
def test_control_characters_are_escaped(text, printed):
    assert printable(text) == printed


def test_letters_that_the_encoding_lacks_are_escaped(monkeypatch):
    output = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(output, encoding="ascii", write_through=True))
    replace_unencodable()
    print("Čapek \udcff")  # the second is how Python reads a file name that is no UTF-8
    print("å", file=sys.stderr)
    assert output.getvalue() == b"\\u010capek \\udcff\n\\xe5\n"


def test_a_pipe_without_a_reader_is_closed():
    reading, writing = os.pipe()
    with open(writing, "w") as stream:
        assert not is_closed(stream)
        os.close(reading)
        assert is_closed(stream)
        print("lost", file=stream)
        with pytest.raises(BrokenPipeError):
            stream.flush()
        silence(stream, None)
        assert not is_closed(stream)
    assert not is_closed(None) and not is_closed(io.StringIO())
