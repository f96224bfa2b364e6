"""What a run and its strategy know of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fl_server.strategy.events import Event

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


class Hooks(Protocol):
    """The strategy, as its run sees it."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Build training messages."""
        ...

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the metrics of a merge."""
        ...

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Build the messages of an evaluation round."""
        ...

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate the metrics of an evaluation round."""
        ...

    def in_flight(self, num_nodes: int) -> int:
        """Return how many training tasks to keep under way."""
        ...

    def notify(self, event: Event) -> None:
        """Pass an event to the observers."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether the run should end early."""
        ...


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked to do.

    Attributes
    ----------
    num_versions : int
        Versions to merge.
    timeout : float
        Lease of a task, and longest time without a merge, in seconds.
    train_config, evaluate_config : ConfigRecord
        Configuration sent with tasks.
    task_entries : dict
        Config entries added to every training task.
    configrecord_key : str
        Key of the ConfigRecord in messages.
    evaluate_fn : callable or None
        Central evaluation.
    rests_until_merge : bool
        Whether a node that has contributed to a buffer waits for its merge, because a release
        rule would refuse a second update of it.
    cohort : int or None
        Training tasks per version, for synchronous rounds; None keeps nodes at work all the
        time.
    """

    num_versions: int
    timeout: float
    train_config: ConfigRecord
    evaluate_config: ConfigRecord
    task_entries: dict[str, str]
    configrecord_key: str
    evaluate_fn: EvaluateFn | None
    rests_until_merge: bool
    cohort: int | None
