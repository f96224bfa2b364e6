"""The seam between dispatch and aggregation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flwr.app import RecordDict

from strategies.batch import Pending
from strategies.layout import Layout
from strategies.update import Merge, Vector


@dataclass(frozen=True)
class Outcome:
    """What became of an update.

    Attributes
    ----------
    accepted : bool
        Whether it counts.
    code : str
        ``"accepted"`` or the code of the refusal.
    staleness : int
        Versions merged since the model it was trained from was current.
    detail : str (default: "")
        A sentence on what exactly is wrong with a refused one, if there is more to say.
    """

    accepted: bool
    code: str
    staleness: int
    detail: str = ""


class Intake(Protocol):
    """Takes updates, yields merges."""

    def open(self, run_id: str, layout: Layout, params: Vector) -> None:
        """Begin a run from the initial parameters, shape (P,), or continue a saved one."""
        ...

    @property
    def version(self) -> int:
        """The current model version, 0 at the beginning."""
        ...

    @property
    def params(self) -> Vector:
        """The parameters of the current version, shape (P,)."""
        ...

    @property
    def waiting(self) -> Sequence[Pending]:
        """The updates that count and are in no version yet, as far as this side may know them."""
        ...

    @property
    def least_clients(self) -> int:
        """Distinct clients without which no version is made."""
        ...

    def offer(
        self, reply: RecordDict, client: str, base_version: int, base: Vector, now: float
    ) -> Outcome:
        """Take a client's reply to a training task.

        Parameters
        ----------
        reply : RecordDict
            Content of the reply.
        client : str
            The node, as the server knows it.
        base_version : int
            The version the server sent.
        base : Vector, shape (P,)
            The parameters the server sent.
        now : float
            Time in seconds on the run's clock.
        """
        ...

    def take_merge(self) -> Merge | None:
        """Return the oldest merge not yet taken, or None."""
        ...

    def close(self) -> None:
        """Release connections and threads; the run has ended."""
        ...


@runtime_checkable
class OneTask(Protocol):
    """An intake that merges updates of one training task only."""

    def begin_task(self, digest: str) -> None:
        """Take note of what is asked of nodes from now on, see `fl_protocol.task.task_digest`.

        Raises
        ------
        StorageFailed
            ``STATE_MISMATCH``: the run is continued, and updates that wait for the next version
            were trained for another task.
        """
        ...


@runtime_checkable
class Publishing(Protocol):
    """An intake whose published model differs from the one clients train from."""

    @property
    def published(self) -> Vector:
        """The published parameters, shape (P,)."""
        ...
