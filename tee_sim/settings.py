"""Reading what a process or a node is configured with; whatever is wrong is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.signatures import KEY_BYTES

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Settings = TypeVar("_Settings", bound="DataclassInstance")


def load_settings(
    kind: type[_Settings],
    path: Path,
    *,
    paths: Iterable[str] = (),
    **convert: Callable[[Any], object],
) -> _Settings:
    """Read a dataclass from a JSON file.

    Parameters
    ----------
    kind : type
        The dataclass.
    path : Path
        A JSON object with its members.
    paths : iterable of str
        Members that are paths: they start from the file's folder unless they are absolute or
        empty, so that a folder of files can be moved as a whole.
    **convert : callable
        By member: what makes the field's value of the JSON value; a list becomes a tuple where
        the field is one.

    Raises
    ------
    ConfigInvalid
        The file cannot be read, or a member is unknown, missing or does not fit.
    """
    try:
        members = _object(json.loads(path.read_text()))
        read = {name: make(members[name]) for name, make in convert.items() if name in members}
        for name in paths:
            if members.get(name):
                read[name] = str(path.resolve().parent / members[name])
        return settings_from(kind, {**members, **read})
    except ConfigInvalid as error:
        raise ConfigInvalid(error.code, f"{path}: {error.sentence}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        known = ", ".join(member.name for member in fields(kind))
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{path}: {error}; the known settings are {known}"
        ) from None


def settings_from(kind: type[_Settings], members: object) -> _Settings:
    """Make a dataclass of what JSON holds, with a tuple for each list that is to be one.

    Raises
    ------
    TypeError, ValueError
        It is no object, or a member is unknown, missing or does not fit.
    """
    hints, typed = get_type_hints(kind), dict(_object(members))
    for field in fields(kind):
        if field.name not in typed:
            continue
        value, hint = typed[field.name], hints[field.name]
        if get_origin(hint) is tuple and isinstance(value, list):
            typed[field.name] = value = tuple(value)
        if not _fits(value, hint):
            raise TypeError(f"{field.name} is not of the type {field.type}")
    return kind(**typed)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("it holds no object")
    return value


def _fits(value: object, hint: Any) -> bool:
    """Say whether a value is of an annotated type; numbers are, with and without a fraction."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is float:
        return type(value) in (int, float) and not math.isnan(value)  # type: ignore[arg-type]
    if origin is UnionType:
        return any(_fits(value, option) for option in inner)
    if isinstance(value, dict) and origin is dict:
        return all(_fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items())
    if isinstance(value, list) and origin is list:
        return all(_fits(item, inner[0]) for item in value)
    if isinstance(value, tuple) and origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    return type(value) is hint


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read a raw Ed25519 private key of 32 bytes; raises ConfigInvalid naming the file."""
    return Ed25519PrivateKey.from_private_bytes(load_key(path))


def load_key(path: Path) -> bytes:
    """Read a raw key of 32 bytes; raises ConfigInvalid naming the file."""
    try:
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise ValueError(f"it has {len(key)} bytes, not {KEY_BYTES}")
        return key
    except (OSError, ValueError) as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path} is no key: {error}") from None
