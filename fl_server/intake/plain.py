"""Aggregation in the server's own process, from plain arrays in Flower replies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, RecordDict

from fl_protocol.codes import UpdateRejected
from fl_protocol.ports import Clock
from fl_protocol.receipts import ACCEPTED
from fl_server.durable.checkpoint import UNREADABLE
from fl_server.durable.engine import DurableEngine, Saved
from fl_server.intake.base import Outcome
from strategies.batch import Pending
from strategies.cached_rows import RowSpace
from strategies.engine import Engine
from strategies.errors import ManifestMismatch
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.reject import Reject
from strategies.release import ReleaseRule
from strategies.screening import Limits
from strategies.update import ClientUpdate, Merge, Rejected, Vector

Replies = Literal["weights", "deltas"]


class PlainIntake:
    """Feeds an engine with the arrays of ClientApp replies.

    A reply must hold exactly one ArrayRecord that fits the model (see `Layout.fit`), and one
    MetricRecord with the number of examples; anything else is refused, never raised.

    Parameters
    ----------
    recipe : Recipe
        The aggregation recipe.
    clock : Clock
        Clock of the run, for buffers that are merged after a longest wait.
    limits : Limits, optional
        Bounds on what is accepted.
    release_rule : ReleaseRule, optional
        What every merge must satisfy, as in an enclave.
    weighted_by_key : str (default: "num-examples")
        Metric that holds the number of examples.
    replies : {"weights", "deltas"} (default: "weights")
        Whether replies hold trained weights, as FedAvg's do, or differences from the model
        sent.
    disk : RowSpace, optional
        Where recipes with ``cache = "disk"`` keep clients' last deltas.
    saved : Saved, optional
        Where the run is kept; a run that was begun there is continued.
    about : dict, optional
        What must not differ when the run is continued, beside recipe and layout.
    """

    def __init__(
        self,
        recipe: Recipe,
        clock: Clock,
        *,
        limits: Limits | None = None,
        release_rule: ReleaseRule | None = None,
        weighted_by_key: str = "num-examples",
        replies: Replies = "weights",
        disk: RowSpace | None = None,
        saved: Saved | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self._recipe = recipe
        self._clock = clock
        self._limits = limits or Limits()
        self._release_rule = release_rule
        self._weighted_by_key = weighted_by_key
        self._replies = replies
        self._disk, self._saved, self._about = disk, saved, about or {}
        self._num_offers = 0
        self._layout: Layout
        self._engine: Engine | DurableEngine
        self._durable: DurableEngine | None = None

    def open(self, run_id: str, layout: Layout, params: Vector) -> None:
        """Begin a run from the initial parameters, shape (P,), or continue the saved one."""
        self._layout = layout
        engine = Engine(
            self._recipe,
            params,
            limits=self._limits,
            release_rule=self._release_rule,
            disk=self._disk,
            roles=layout.roles,
        )
        if self._saved is None:
            self._engine = engine
            return
        options = json.dumps(self._recipe.options(), sort_keys=True)
        described = {"recipe": self._recipe.name, "options": options, "layout": layout.digest}
        self._durable = DurableEngine(engine, self._saved, {**described, **self._about})
        self._engine, self._num_offers = self._durable, self._durable.num_received

    @property
    def version(self) -> int:
        """The current model version."""
        return self._engine.version

    @property
    def params(self) -> Vector:
        """The parameters of the current version, shape (P,)."""
        return self._engine.params

    @property
    def published(self) -> Vector:
        """The published parameters, shape (P,): the recipe's running mean if it has one."""
        return self._engine.published

    @property
    def waiting(self) -> Sequence[Pending]:
        """The updates that count and are in no version yet."""
        return self._engine.waiting

    @property
    def least_clients(self) -> int:
        """Distinct clients without which no version is made."""
        return 1 if self._release_rule is None else self._release_rule.k

    def offer(
        self, reply: RecordDict, client: str, base_version: int, base: Vector, now: float
    ) -> Outcome:
        """Turn a reply into an update and offer it to the engine."""
        staleness = self.version - base_version
        try:
            num_examples = examples_in(reply, self._weighted_by_key)
            delta = self._delta(reply, base)
        except UpdateRejected as error:
            return Outcome(False, error.code, staleness, error.sentence)
        update_id = f"update-{self._num_offers + 1}"
        answer = self._engine.offer(
            ClientUpdate(client, base_version, delta, num_examples, update_id), now
        )
        self._num_offers += 1
        if isinstance(answer, Rejected):
            return Outcome(False, answer.code.value, staleness, self._detail(answer, num_examples))
        return Outcome(True, ACCEPTED, answer.staleness)

    def take_merge(self) -> Merge | None:
        """Merge if the recipe says it is time."""
        now = self._clock.now()
        return self._engine.merge(now) if self._engine.ready(now) else None

    def close(self) -> None:
        """End the run; one that is saved may be continued."""
        if self._durable is not None:
            self._durable.close(self._clock.now())

    def _detail(self, answer: Rejected, num_examples: int) -> str:
        if answer.code != Reject.BAD_NUM_EXAMPLES:
            return ""
        return (
            f"{num_examples} examples under {self._weighted_by_key!r}; limits.max_examples allows "
            f"1 to {self._limits.max_examples}."
        )

    def _delta(self, reply: RecordDict, base: Vector) -> Vector:
        row = self._engine.lease()
        self._fit(reply, row)
        if self._replies == "weights":
            # Infinite weights give an infinite or NaN delta, which the engine refuses by name.
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(row, base, out=row)
        return row

    def _fit(self, reply: RecordDict, row: Vector) -> None:
        records = list(reply.array_records.values())
        if len(records) != 1:
            sentence = f"The reply holds {len(records)} ArrayRecords and should hold one."
            raise UpdateRejected(Reject.WRONG_SHAPE, sentence)
        try:
            arrays = arrays_of(records[0])
            readable = all(isinstance(array, np.ndarray) for array in arrays.values())
        except UNREADABLE:
            readable = False
        if not readable:
            sentence = "The reply holds an array that cannot be read."
            raise UpdateRejected(Reject.WRONG_SHAPE, sentence)
        try:
            self._layout.fit(arrays, out=row)
        except ManifestMismatch as error:
            raise UpdateRejected(Reject.WRONG_SHAPE, error.sentence) from None


def arrays_of(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a record by name, in order."""
    return {name: array.numpy() for name, array in record.items()}


def examples_in(reply: RecordDict, key: str) -> int:
    """Return the number of examples a reply states.

    FedAvg's convention is followed: one MetricRecord, a single number under `key`; a float
    counts if it is a whole number.

    Raises
    ------
    UpdateRejected
        ``BAD_NUM_EXAMPLES`` if it states none.
    """
    records = list(reply.metric_records.values())
    value = records[0].get(key) if len(records) == 1 else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int):
        return value
    found = f"{len(records)} MetricRecords" if len(records) != 1 else f"{value!r}"
    raise UpdateRejected(
        Reject.BAD_NUM_EXAMPLES,
        f"The reply should hold one MetricRecord with a whole number of examples under {key!r}, "
        f"and holds {found}.",
    )
