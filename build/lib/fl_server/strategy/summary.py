"""The tree of settings a strategy logs at its start, in Flower's style."""

from __future__ import annotations

from logging import INFO
from typing import TYPE_CHECKING

from fl_server.strategy.flwr_compat import log

if TYPE_CHECKING:
    from fl_server.strategy.async_strategy import AsyncStrategy


def log_summary(strategy: AsyncStrategy) -> None:
    """Log what a strategy is configured to do."""
    s = strategy
    log(INFO, "\t├──> Sampling:")
    log(
        INFO,
        "\t│\t├── Fraction: train (%.2f) | evaluate (%.2f)",
        s.fraction_train,
        s.fraction_evaluate,
    )
    log(
        INFO,
        "\t│\t├── Minimum nodes: train (%d) | evaluate (%d)",
        s.min_train_nodes,
        s.min_evaluate_nodes,
    )
    log(INFO, "\t│\t├── Minimum available nodes: %d", s.min_available_nodes)
    log(INFO, "\t│\t└── Selection: %s", s.selection.name)
    log(INFO, "\t├──> Aggregation:")
    for name, value in s.describe().items():
        log(INFO, "\t│\t├── %s: %s", name, value)
    way = "plain arrays" if s.gateway is None else "sealed to the gateway's enclave"
    log(INFO, "\t│\t└── updates: %s, %s", s.replies, way)
    log(INFO, "\t└──> Keys in records:")
    log(INFO, "\t\t├── Weighted by: '%s'", s.weighted_by_key)
    log(INFO, "\t\t├── ArrayRecord key: '%s'", s.arrayrecord_key)
    log(INFO, "\t\t└── ConfigRecord key: '%s'", s.configrecord_key)
