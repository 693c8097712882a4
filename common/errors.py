"""The one error that a person can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake a person can mend. The message is one line: what, where, how to mend it. Scripts exit with 2."""


def first_line(problem):
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(":.")
