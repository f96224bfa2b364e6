"""Canonical JSON: one byte string per value, so that what is signed cannot be read two ways.

Sorted members, no white space, ASCII only, integers within 64 bits, no floats and no null
(a number with a fraction travels as a decimal string). The spirit of RFC 8785 without its
floating-point rules.
"""

from __future__ import annotations

import json
import re
from typing import Any, Never

Json = bool | int | str | list[Any] | dict[str, Any]

_INT_LIMIT = 2**63
_MAX_DEPTH = 16
# A string as a whole, so that brackets inside it do not count, or one bracket outside.
_NESTING = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


class CanonicalError(ValueError):
    """The value or byte string has no canonical form; the message names the reason."""


def encode(value: Json) -> bytes:
    """Encode a value canonically.

    Parameters
    ----------
    value : bool, int, str, list or dict
        Nested at most 16 deep; integers in [-2**63, 2**63).

    Returns
    -------
    bytes
        Compact ASCII JSON with sorted members.

    Raises
    ------
    CanonicalError
        For floats, null, non-string member names and anything else JSON-like but ambiguous.
    """
    _check(value, 0)
    return _ENCODER.encode(value).encode("ascii")


def decode_strict(data: bytes, max_bytes: int) -> Json:
    """Decode canonical JSON and refuse every other spelling of the same value.

    Parameters
    ----------
    data : bytes
        What was received.
    max_bytes : int
        The longest input looked at.

    Raises
    ------
    CanonicalError
        If the input is too long, not JSON, or not exactly what `encode` would have produced
        (duplicate members, white space, floats, NaN, null, unsorted members, other escapes).
    """
    value = _parse(data, max_bytes)
    if encode(value) != data:
        raise CanonicalError("not in canonical form")
    return value


def decode_object(data: bytes, max_bytes: int) -> dict[str, Any]:
    """Decode canonical JSON whose outermost value must be an object."""
    value = decode_strict(data, max_bytes)
    if not isinstance(value, dict):
        raise CanonicalError("not an object")
    return value


def parse_object(data: bytes, max_bytes: int) -> dict[str, Any]:
    """Decode a JSON object others wrote: any spacing and order, but one meaning only.

    Raises
    ------
    CanonicalError
        If the input is too long, not an ASCII JSON object, or has duplicate members or anything
        else that `encode` refuses, such as floats or lone surrogates.
    """
    value = _parse(data, max_bytes)
    if not isinstance(value, dict):
        raise CanonicalError("not an object")
    _check(value, 0)
    return value


def check_nesting(text: str) -> None:
    """Refuse JSON text nested deeper than 16 before anything parses it.

    The parser recurses in C: near the interpreter's recursion limit the stack of a confined
    process may be unable to grow, which ends the process instead of raising an error.

    Raises
    ------
    CanonicalError
    """
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return
    depth = 0
    for token in _NESTING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _MAX_DEPTH:
            raise CanonicalError(f"nested deeper than {_MAX_DEPTH}")


def _parse(data: bytes, max_bytes: int) -> Json:
    if len(data) > max_bytes:
        raise CanonicalError(f"longer than {max_bytes} bytes")
    try:
        text = data.decode("ascii")
        check_nesting(text)
        value: Json = _DECODER.decode(text)
    except CanonicalError:
        raise
    except (ValueError, RecursionError) as error:
        raise CanonicalError("not ASCII JSON") from error
    return value


def _check(value: object, depth: int) -> None:
    # A record is a flat object of strings and integers: most members end in the first two cases.
    if type(value) is str:
        _check_text(value)
    elif type(value) is int:
        if not -_INT_LIMIT <= value < _INT_LIMIT:
            raise CanonicalError("integer outside 64 bits")
    elif isinstance(value, dict):
        _check_depth(depth)
        for name, item in value.items():
            if not isinstance(name, str):
                raise CanonicalError("member name is not a string")
            _check_text(name)
            _check(item, depth + 1)
    elif isinstance(value, list):
        _check_depth(depth)
        for item in value:
            _check(item, depth + 1)
    elif type(value) is not bool:
        _check_odd(value)


def _check_depth(around: int) -> None:
    """Check the number of objects and arrays around one more."""
    if around >= _MAX_DEPTH:
        raise CanonicalError(f"nested deeper than {_MAX_DEPTH}")


def _check_text(text: str) -> None:
    if not text.isascii() and any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        raise CanonicalError("lone surrogate in a string")


def _check_odd(value: object) -> None:
    """Check a value of a type derived from what JSON knows."""
    if isinstance(value, str):
        _check_text(value)
    elif not isinstance(value, int):
        raise CanonicalError(f"{type(value).__name__} has no canonical form")
    elif not -_INT_LIMIT <= value < _INT_LIMIT:
        raise CanonicalError("integer outside 64 bits")


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise CanonicalError("duplicate member")
    return members


def _refuse_number(text: str) -> Never:
    raise CanonicalError("number that is not an integer")


# Made once: making one costs as much as coding a record. What is encoded was checked, so it is not
# circular.
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, check_circular=False
)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_float=_refuse_number, parse_constant=_refuse_number
)
