"""Benchmarks. The docstring of each module has its command; bench/RESULTS.md has the results."""

import argparse

import config


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, not {text}")
    return int(text)


def resolution(text: str) -> str:
    """argparse type: a valid --resolution of training, returned as it is."""
    try:
        config.parse_size(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text}: {problem}") from None
    return text
