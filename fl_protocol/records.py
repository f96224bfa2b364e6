"""Frozen dataclasses as strict canonical JSON: exact members, exact types, checked ranges.

A field says what it allows in its annotation, for example ``Digest`` or ``Count``; `encode` and
`decode` both enforce it, so a bad value is found where it is made, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Text:
    """A string that matches a pattern as a whole."""

    pattern: re.Pattern[str]

    def allows(self, value: object) -> bool:
        """Say whether a decoded value fits."""
        return type(value) is str and self.pattern.fullmatch(value) is not None


@dataclass(frozen=True)
class Whole:
    """An integer (never a bool) within inclusive bounds."""

    low: int
    high: int

    def allows(self, value: object) -> bool:
        """Say whether a decoded value fits."""
        return type(value) is int and self.low <= value <= self.high


NAME = Text(re.compile(r"[A-Za-z0-9._:@-]{1,128}"))
Name = Annotated[str, NAME]
Word = Annotated[str, Text(re.compile(r"[A-Za-z0-9_-]{1,64}"))]
Digest = Annotated[str, Text(re.compile(r"[0-9a-f]{64}"))]
Hex16 = Annotated[str, Text(re.compile(r"[0-9a-f]{32}"))]
PublicKey = Annotated[str, Text(re.compile(r"[A-Za-z0-9_-]{43}"))]
Count = Annotated[int, Whole(0, 2**53)]
Integer = Annotated[int, Whole(-(2**63), 2**63 - 1)]
Version1 = Annotated[int, Whole(1, 1)]

Record = TypeVar("Record", bound="DataclassInstance")


def encode(record: DataclassInstance) -> bytes:
    """Encode a record as canonical JSON; raises CanonicalError naming a field that does not fit."""
    members = {field.name: getattr(record, field.name) for field in fields(record)}
    _check(type(record), members)
    return canonical.encode(members)


def decode(kind: type[Record], data: bytes, max_bytes: int) -> Record:
    """Decode exactly what `encode` produces for this kind of record.

    Raises
    ------
    CanonicalError
        If the bytes are not canonical, a member is missing or unknown, or a value does not fit.
    """
    members = canonical.decode_object(data, max_bytes)
    _check(kind, members)
    return kind(**members)


def _check(kind: type[DataclassInstance], members: dict[str, Any]) -> None:
    rules = _rules(kind)
    if members.keys() != rules.keys():
        raise CanonicalError(f"members of {kind.__name__} differ from its definition")
    for name, rule in rules.items():
        if not rule.allows(members[name]):
            raise CanonicalError(f"{name} of {kind.__name__} has a wrong type or value")


@cache
def _rules(kind: type[DataclassInstance]) -> dict[str, Text | Whole]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: get_args(hints[field.name])[1] for field in fields(kind)}
