"""What is known of each client from the tasks it was given: speed, reliability, load."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strategies.errors import BadOption

Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimates:
    """What a policy is told of n clients; row i of every column is client i.

    Attributes
    ----------
    clients : tuple of int
        The clients.
    untried : ndarray of bool, shape (n,)
        Never given a task.
    duration : ndarray of float64, shape (n,)
        Expected task duration relative to the mean over all clients that have delivered, so
        that no policy depends on the unit of time. 1 where nothing was delivered yet.
    reliability : ndarray of float64, shape (n,)
        Share of the tasks delivered; 1 where no task has ended yet.
    utilisation : ndarray of float64, shape (n,)
        Share of the recent time spent on tasks, in per cent, or as the client reported it.
    """

    clients: tuple[int, ...]
    untried: npt.NDArray[np.bool_]
    duration: Column
    reliability: Column
    utilisation: Column


# One client. Busy while begun > ended; since when it has been busy or idle, on the run's clock.
_RECORD = np.dtype(
    [
        ("begun", np.int64),
        ("ended", np.int64),
        ("delivered", np.int64),
        ("duration", np.float64),
        ("busy_share", np.float64),
        ("since", np.float64),
        ("reported", np.bool_),
    ]
)
_NOBODY = 0


class TaskHistory:
    """Estimates of every client, fed by what happens to its tasks; a client has one at a time.

    Only delivered tasks tell how long a task takes. Counting failed ones, too, would make the
    client that fails at once look like the fastest of all.

    Parameters
    ----------
    smoothing : float (default: 0.3)
        Weight of the newest duration in a client's moving average, above 0 and at most 1.
    recent : float (default: 10.0)
        Time over which utilisation is averaged, exponentially fading, in mean task durations.

    Raises
    ------
    BadOption
        If a parameter is out of range.
    """

    def __init__(self, smoothing: float = 0.3, recent: float = 10.0) -> None:
        if not 0 < smoothing <= 1:
            raise BadOption("smoothing must lie above 0 and at most at 1.")
        if not 0 < recent < math.inf:
            raise BadOption("recent must be a finite number above 0.")
        self._smoothing, self._recent = smoothing, recent
        self._rows: dict[int, int] = {}
        # A table, not objects: estimates of all idle clients are asked for at every draw. Row 0
        # stands for whoever was never heard of.
        self._table = np.zeros(1, _RECORD)
        self._num_known, self._sum_of_durations = 0, 0.0

    def begin(self, client: int, now: float) -> None:
        """Note that a client was given a task at the time `now`, in seconds."""
        record = self._record_of(client)
        record["busy_share"] = self._busy_shares(record, now)
        record["begun"] += 1
        record["since"] = now

    def end(
        self, client: int, now: float, *, delivered: bool, utilisation: float | None = None
    ) -> None:
        """Note that a client's task ended at the time `now`, in seconds.

        Parameters
        ----------
        client : int
            The client.
        now : float
            Time in seconds.
        delivered : bool
            False if it failed or was lost.
        utilisation : float, optional
            The device's load in per cent, if the client reported it. It stands until the next
            report. Ignored outside 0 to 100.
        """
        record = self._table[self._rows[client]]
        if delivered:
            self._learn_duration(record, now - record["since"])
        record["busy_share"] = self._busy_shares(record, now)
        record["ended"] += 1
        record["delivered"] += delivered
        record["since"] = now
        if utilisation is not None and 0 <= utilisation <= 100:
            record["busy_share"], record["reported"] = utilisation / 100, True

    def estimates(self, clients: Sequence[int], now: float) -> Estimates:
        """Return what is known of some clients at the time `now`, in seconds."""
        rows = [self._rows.get(client, _NOBODY) for client in clients]
        known = self._table[rows]
        delivered, ended = known["delivered"], known["ended"]
        return Estimates(
            clients=tuple(clients),
            untried=known["begun"] == 0,
            duration=np.where(delivered > 0, known["duration"] / (self._mean_duration or 1.0), 1.0),
            reliability=np.where(ended > 0, delivered / np.maximum(ended, 1), 1.0),
            utilisation=100.0 * self._busy_shares(known, now),
        )

    def state(self) -> dict[str, Any]:
        """Return JSON data that `restore` reads."""
        return {
            "sum_of_durations": self._sum_of_durations,
            "clients": [[client, self._table[row].item()] for client, row in self._rows.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._rows = {client: row for row, (client, _) in enumerate(state["clients"], start=1)}
        records = np.array([tuple(values) for _, values in state["clients"]], _RECORD)
        self._table = np.concatenate([np.zeros(1, _RECORD), records])
        self._num_known = int(np.count_nonzero(self._table["delivered"]))
        self._sum_of_durations = state["sum_of_durations"]

    @property
    def _mean_duration(self) -> float:
        """Mean expected duration over the clients that have delivered; 0 before the first."""
        return self._sum_of_durations / self._num_known if self._num_known else 0.0

    def _record_of(self, client: int) -> Any:
        row = self._rows.setdefault(client, len(self._rows) + 1)
        if row == len(self._table):
            self._table = np.concatenate([self._table, np.zeros(row, _RECORD)])
        return self._table[row]

    def _learn_duration(self, record: Any, seconds: float) -> None:
        first = record["delivered"] == 0
        change = (1.0 if first else self._smoothing) * (seconds - float(record["duration"]))
        record["duration"] += change
        self._num_known += bool(first)
        self._sum_of_durations += change

    def _busy_shares(self, records: Any, now: float) -> Any:
        """Return the fading averages, up to `now`, of being busy (1) and idle (0)."""
        shares, horizon = records["busy_share"], self._recent * self._mean_duration
        if not horizon:
            return shares
        busy = records["begun"] > records["ended"]
        faded = busy + (shares - busy) * np.exp((records["since"] - now) / horizon)
        return np.where(records["reported"], shares, faded)
