"""What a run tells its observers while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flwr.app import MetricRecord

from strategies.update import Merge


@dataclass(frozen=True)
class UpdateEvent:
    """A training task has ended.

    Attributes
    ----------
    time : float
        Seconds since the start of the run, on the run's clock.
    client : str
        Flower node id.
    accepted : bool
        Whether the update entered the buffer.
    code : str
        ``"accepted"`` or the code of the refusal or failure.
    staleness : int
        Versions merged between sending the model and receiving the update.
    version : int
        Model version at the time.
    """

    time: float
    client: str
    accepted: bool
    code: str
    staleness: int
    version: int


@dataclass(frozen=True)
class MergeEvent:
    """A new model version is there.

    Attributes
    ----------
    time : float
        Seconds since the start of the run, on the run's clock.
    merge : Merge
        The version, counted from 1, with its parameters and their digest.
    train_metrics : MetricRecord or None
        Aggregated metrics of the replies that came since the version before.
    server_metrics : MetricRecord or None
        What ``evaluate_fn`` returned for this version.
    """

    time: float
    merge: Merge
    train_metrics: MetricRecord | None
    server_metrics: MetricRecord | None

    @property
    def version(self) -> int:
        """The new version."""
        return self.merge.version

    @property
    def num_updates(self) -> int:
        """Updates merged into it."""
        return self.merge.num_updates

    @property
    def digest(self) -> str:
        """SHA-256 of the new parameters, in hexadecimal; computed on first use."""
        return self.merge.digest


@dataclass(frozen=True)
class EvaluationEvent:
    """A round of client-side evaluation has ended.

    Attributes
    ----------
    time : float
        Seconds since the start of the run, on the run's clock.
    version : int
        The version that was evaluated.
    num_replies : int
        Nodes that answered, failures included.
    metrics : MetricRecord or None
        Aggregated metrics; None if no node gave any.
    """

    time: float
    version: int
    num_replies: int
    metrics: MetricRecord | None


Event = UpdateEvent | MergeEvent | EvaluationEvent


class Observer(Protocol):
    """Called with every event, on the thread of the run, in the order of events."""

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        ...
