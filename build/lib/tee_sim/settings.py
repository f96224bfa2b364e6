"""Reading what a process or a node is configured with; whatever is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
        By member: what makes the field's value of the JSON value.

    Raises
    ------
    ConfigInvalid
        The file cannot be read, or a member is unknown, missing or does not fit.
    """
    try:
        members: dict[str, Any] = json.loads(path.read_text())
        read = {name: make(members[name]) for name, make in convert.items() if name in members}
        for name in paths:
            if members.get(name):
                read[name] = str(path.resolve().parent / members[name])
        return kind(**{**members, **read})
    except (OSError, ValueError, TypeError) as error:
        known = ", ".join(member.name for member in fields(kind))
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{path}: {error}; the known settings are {known}"
        ) from None


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
