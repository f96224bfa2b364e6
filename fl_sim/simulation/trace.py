"""Device traces: one line per device, from a CSV file.

Columns, named in the first line in any order:

``client``
    Number of the device, 0 to n - 1, each once.
``compute``
    Median training time in seconds, from 1e-9 to 1e9.
``network``
    Bandwidth in Mbit/s, from 1e-9 to 1e9, for the download and the upload of the model. Optional.
``duty_cycle``
    Share of the time the device is online, from 1e-9 to 1. Optional.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_protocol.codes import Code, ConfigInvalid

_REQUIRED = ("client", "compute")
_OPTIONAL = ("network", "duty_cycle")
_LEAST, _MOST = 1e-9, 1e9
# As many as a number of ten million clients has.
_CLIENT_DIGITS = 8


@dataclass(frozen=True)
class Trace:
    """Devices as recorded, by number.

    Attributes
    ----------
    compute : tuple of float
        Median training times in seconds.
    network : tuple of float, optional
        Bandwidths in Mbit/s.
    duty_cycle : tuple of float, optional
        Shares of the time online.
    """

    compute: tuple[float, ...]
    network: tuple[float, ...] | None
    duty_cycle: tuple[float, ...] | None


def read_trace(path: Path, num_clients: int) -> Trace:
    """Read a trace of exactly `num_clients` devices.

    Raises
    ------
    ConfigInvalid
        If the file cannot be read, or a row or column is missing or wrong; the row is named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = _columns(path, reader.fieldnames or ())
            devices: dict[int, dict[str, float]] = {}
            for row in reader:
                _add(f"{path}, line {reader.line_num}", row, columns, devices, num_clients)
    except OSError as error:
        raise _invalid(f"devices.trace: {path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise _invalid(f"devices.trace: {path} is not a CSV file: {error}.") from None
    missing = [client for client in range(num_clients) if client not in devices]
    if missing:
        raise _invalid(
            f"devices.trace: {path} has no row for client {missing[0]}; in all it lacks "
            f"{len(missing)} of the {num_clients} that devices.clients asks for."
        )
    ordered = [devices[client] for client in range(num_clients)]

    def column(name: str) -> tuple[float, ...]:
        return tuple(device[name] for device in ordered)

    return Trace(
        column("compute"),
        column("network") if "network" in columns else None,
        column("duty_cycle") if "duty_cycle" in columns else None,
    )


def trace_digest(path: Path) -> str:
    """Return a digest of a trace's file; raises ConfigInvalid if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _invalid(f"devices.trace: {path} cannot be read: {error.strerror}.") from None


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    for name in _REQUIRED:
        if name not in names:
            raise _invalid(f"devices.trace: {path} has no column {name!r} in its first line.")
    for name in names:
        if name not in _REQUIRED + _OPTIONAL:
            known = ", ".join(_REQUIRED + _OPTIONAL)
            raise _invalid(f"devices.trace: {path} has an unknown column {name!r}; known: {known}.")
    if len(set(names)) < len(names):
        raise _invalid(f"devices.trace: {path} names a column twice in its first line.")
    return [name for name in names if name != "client"]


def _add(
    place: str,
    row: dict[str | Any, str | Any],
    columns: list[str],
    devices: dict[int, dict[str, float]],
    num_clients: int,
) -> None:
    if None in row:
        raise _invalid(f"devices.trace: {place}: {len(row) - 1 + len(row[None])} fields, too many.")
    text = row["client"] or ""
    digits = text.isascii() and text.isdecimal() and len(text) <= _CLIENT_DIGITS
    if not (digits and int(text) < num_clients):
        raise _invalid(
            f"devices.trace: {place}: client must be 0 to {num_clients - 1}, not {text[:20]!r}."
        )
    if int(text) in devices:
        raise _invalid(f"devices.trace: {place}: client {text} has a row already.")
    devices[int(text)] = {name: _number(place, name, row[name]) for name in columns}


def _number(place: str, name: str, text: str | None) -> float:
    text = text or ""
    try:
        # Python also reads 1_0 and digits of other scripts.
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    most = 1.0 if name == "duty_cycle" else _MOST
    if not _LEAST <= value <= most:
        raise _invalid(
            f"devices.trace: {place}: {name} must be a number from {_LEAST:g} to {most:g}, "
            f"not {text[:20]!r}."
        )
    return value


def _invalid(sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, sentence)
