"""Text on a terminal: nothing that is printed moves the cursor, and nothing fails to be printed."""

from __future__ import annotations

import os
import re
import select
import sys
from typing import TextIO

# Control characters but tab and line end, and the marks that turn the direction of writing: book_data.csv, file names
# and trackers may hold any
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """The text with control characters written as escapes, such as \\x1b."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def replace_unencodable() -> None:
    """From now on, characters that the terminal's encoding does not have are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a test or a notebook has put another object
            stream.reconfigure(errors="backslashreplace")


def is_closed(stream: TextIO | None) -> bool:
    """Whether nobody reads a pipe any more that the stream writes to, as after `| head`."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # type: ignore[union-attr]
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no stream, or none of the operating system's
        return False


def silence(*streams: TextIO | None) -> None:
    """Send what is printed from now on nowhere, as the terminal or the pipe is gone."""
    for stream in streams:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            continue
