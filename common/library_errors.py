"""What diffusers, transformers, safetensors and torch raise when they read a model; and that in one line."""

from __future__ import annotations

import pickle

import huggingface_hub.errors
import safetensors

# For a missing, damaged or different model; ImportError where a model asks for a package that is not here
LIBRARY_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, ImportError),
    *(huggingface_hub.errors.StrictDataclassError, safetensors.SafetensorError, pickle.UnpicklingError),
)
# Where advice begins that is meant for programmers
ADVICE = (" To enable repo look-ups", " If you want to instead", " Checkout your internet", " You can install")


def short_reason(problem: Exception) -> str:
    """The text of a library's error in one line, without advice for programmers; at most 300 characters."""
    text = " ".join(str(problem).split()) or type(problem).__name__
    if isinstance(problem, KeyError):
        text = f"there is no {text}"
    for advice in ADVICE:
        text = text.split(advice)[0]
    return text[:300].rstrip(" .:")
