"""The exception for mistakes that the user can correct."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can correct. The message is one line: what, where, how to mend it. Exit status 2."""


def first_line(problem: object) -> str:
    """The first line of an error's text, at most 200 characters, without the full stop; its type if it has no text."""
    lines = str(problem).strip().splitlines()
    return lines[0].rstrip(":.")[:200] if lines else type(problem).__name__
