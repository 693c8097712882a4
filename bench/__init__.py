"""Measurements. Each module says in its first lines how it is called; bench/RESULTS.md has what it printed."""

import argparse

import config


def positive(text):
    """An argparse type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def resolution(text):
    """An argparse type: the text of a --resolution that training would take."""
    try:
        config.parse_size(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text}: {problem}") from None
    return text
