"""The options every asynchronous strategy shares, as a type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict, Union

from flwr.app import MetricRecord, RecordDict

from fl_server.intake.plain import Replies
from fl_server.strategy.events import Observer
from strategies.release import ReleaseRule
from strategies.screening import Limits
from strategies.selection import Policy

if TYPE_CHECKING:
    from fl_server.intake.config import ServerConfig

MetricsAggregation: TypeAlias = Callable[[list[RecordDict], str], MetricRecord]
Gateway: TypeAlias = Union["ServerConfig", Path, str]


class StrategyOptions(TypedDict, total=False):
    """Keyword arguments of `AsyncStrategy`, which documents them, apart from the recipe."""

    fraction_train: float
    fraction_evaluate: float
    min_train_nodes: int
    min_evaluate_nodes: int
    min_available_nodes: int
    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    train_metrics_aggr_fn: MetricsAggregation | None
    evaluate_metrics_aggr_fn: MetricsAggregation | None
    replies: Replies
    limits: Limits | None
    release_rule: ReleaseRule | None
    cache_folder: Path | str | None
    state_folder: Path | str | None
    seed: int
    selection: str | Policy
    gateway: Gateway | None
    run_name: str | None
    callbacks: Sequence[Observer]
