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

from dataclasses import dataclass
from pathlib import Path

from fl_sim.simulation.device_csv import DeviceFile

_REQUIRED = ("client", "compute")
_OPTIONAL = ("network", "duty_cycle")
_LEAST, _MOST = 1e-9, {"compute": 1e9, "network": 1e9, "duty_cycle": 1.0}


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
    file = DeviceFile("devices.trace", path)
    devices: dict[int, dict[str, float]] = {}
    for line, row in file.rows(_REQUIRED, _OPTIONAL):
        client = file.client(line, row.pop("client"), num_clients)
        if client in devices:
            raise file.refused(line, f"client {client} has a row already.")
        devices[client] = {
            name: file.number(line, name, text, _LEAST, _MOST[name]) for name, text in row.items()
        }
    file.require_all(
        [client for client in range(num_clients) if client not in devices], num_clients
    )
    ordered = [devices[client] for client in range(num_clients)]

    def column(name: str) -> tuple[float, ...] | None:
        return tuple(device[name] for device in ordered) if name in ordered[0] else None

    return Trace(
        tuple(device["compute"] for device in ordered), column("network"), column("duty_cycle")
    )


def trace_digest(path: Path) -> str:
    """Return a digest of a trace's file; raises ConfigInvalid if it cannot be read."""
    return DeviceFile("devices.trace", path).digest()
