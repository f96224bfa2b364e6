"""Options of recipes and policies as a configuration file gives them: names and plain values."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from strategies.errors import BadOption

Built = TypeVar("Built")


def build(name: str, kind: type[Built], options: dict[str, Any]) -> Built:
    """Build a dataclass from its options.

    Parameters
    ----------
    name : str
        What to call it in errors.
    kind : type
        A dataclass whose fields are bool, int, float or str, each possibly ``| None``.
    options : dict
        Values by field name; strings as written by ``options_of`` are read back.

    Raises
    ------
    BadOption
        An option is unknown, has the wrong type or is out of range.
    """
    types = {field.name: _spelled(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(types))
    if unknown:
        raise BadOption(
            f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(types))}."
        )
    given = [field for field in fields(kind) if field.init and field.name not in options]  # type: ignore[arg-type]
    missing = [f.name for f in given if f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise BadOption(f"{name} has no default for {', '.join(missing)}.")
    values = {key: _read(f"{name}.{key}", value, types[key]) for key, value in options.items()}
    return kind(**values)


def _spelled(declared: object) -> str:
    """Return a type as it stands in the source, whether its module postpones annotations or not."""
    return declared.__name__ if isinstance(declared, type) else str(declared)


def _read(name: str, value: object, declared: str) -> object:
    wanted = declared.removesuffix(" | None")
    if value is None or value == "none":
        if wanted != declared:
            return None
    elif wanted == "bool":
        if value is True or value == "true":
            return True
        if value is False or value == "false":
            return False
    elif wanted == "int":
        return _int(name, value)
    elif wanted == "float":
        return _float(name, value)
    elif isinstance(value, str):
        return value
    raise BadOption(f"{name} cannot be {value!r}.")


def _int(name: str, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    if type(value) is int:
        return value
    raise BadOption(f"{name} must be a whole number, not {value!r}.")


def _float(name: str, value: object) -> float:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise BadOption(f"{name} must be a finite number, not {value!r}.")
