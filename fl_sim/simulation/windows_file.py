"""Windows of availability: one line per window, from a CSV file.

Columns, named in the first line in any order:

``client``
    Number of the client, 0 to n - 1; each has one row or more.
``start``, ``end``
    When it is online, in virtual seconds from 0 to 1e9. The windows of one client are in ascending
    order and do not overlap; the rows of different clients may alternate. Those that come again
    last a millionth of the period or longer.
"""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import numpy as np

from fl_sim.simulation.availability import Windows
from fl_sim.simulation.device_csv import DeviceFile

_COLUMNS = ("client", "start", "end")
_MOST = 1e9
# Of the period: shifted by many periods, shorter windows round to nothing.
_LEAST = 1e-6


def read_windows(path: Path, num_clients: int, period: float | None = None) -> Windows:
    """Read the windows of `num_clients` clients, which come again after `period` seconds if set.

    Raises
    ------
    ConfigInvalid
        If the file cannot be read, a row or column is missing or wrong, or a window ends after the
        period or is too short for it; the row is named.
    """
    file = DeviceFile("devices.windows", path)
    clients, starts, ends = array("q"), array("d"), array("d")
    closed = array("d", bytes(8 * num_clients))
    for line, row in file.rows(_COLUMNS):
        client = file.client(line, row["client"], num_clients)
        start = file.number(line, "start", row["start"], 0.0, _MOST)
        end = file.number(line, "end", row["end"], 0.0, _MOST)
        if start >= end:
            raise file.refused(line, f"the window ends at {end:g}, not after its start.")
        if start < closed[client]:
            raise file.refused(
                line, f"client {client} has a window until {closed[client]:g} before this one."
            )
        if period is not None and end > period:
            raise file.refused(line, f"the window ends after devices.windows_period = {period:g}.")
        if period is not None and end - start < _LEAST * period:
            raise file.refused(
                line, f"the window lasts no millionth of devices.windows_period = {period:g}."
            )
        closed[client] = end
        clients.append(client)
        starts.append(start)
        ends.append(end)
    numbers = np.array(clients)
    counts = np.bincount(numbers, minlength=num_clients)
    file.require_all(np.flatnonzero(counts == 0).tolist(), num_clients)
    order = np.argsort(numbers, kind="stable")
    return Windows(
        counts,
        np.array(starts)[order],
        np.array(ends)[order],
        math.inf if period is None else period,
    )


def windows_digest(path: Path) -> str:
    """Return a digest of a file of windows; raises ConfigInvalid if it cannot be read."""
    return DeviceFile("devices.windows", path).digest()
