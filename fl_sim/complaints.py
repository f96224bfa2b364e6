"""What is said of a configuration that does not fit."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_KNOWN = {"extra_forbidden": "there is no such key"}


def complaints_of(error: ValidationError) -> str:
    """Return which keys do not fit and why, in one line."""
    return "; ".join(map(_complaint, error.errors()))


def _complaint(error: ErrorDetails) -> str:
    sentence = _KNOWN.get(error["type"], error["msg"].removeprefix("Value error, "))
    return f"{'.'.join(map(str, error['loc']))}: {sentence}"
