"""The average of nodes' metrics, held against Flower's where all report the same."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from fl_server.strategy.metrics import average_metrics


def replies(*metrics: dict[str, Any]) -> list[RecordDict]:
    return [RecordDict({"metrics": MetricRecord(found)}) for found in metrics]


def test_gives_what_flower_gives_where_all_nodes_report_the_same() -> None:
    given = replies(
        {"num-examples": 10, "loss": 0.5, "steps": 3, "per-class": [1.0, 0.0]},
        {"num-examples": 30, "loss": 1.5, "steps": 4, "per-class": [0.0, 1.0]},
    )
    ours, theirs = (
        average(given, "num-examples") for average in (average_metrics, aggregate_metricrecords)
    )
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value)


def test_a_metric_is_averaged_over_the_nodes_that_report_it() -> None:
    given = replies(
        {"num-examples": 10, "loss": 1.0, "utilisation": 80.0},
        {"num-examples": 10, "loss": 2.0},
        {"num-examples": 30, "loss": 3.0, "utilisation": 40.0},
    )
    assert dict(average_metrics(given, "num-examples")) == {"loss": 2.4, "utilisation": 50.0}


@pytest.mark.parametrize(
    ("metrics", "error"),
    [
        ([{"loss": 1.0}], KeyError),
        ([{"num-examples": 0, "loss": 1.0}], ZeroDivisionError),
        ([{"num-examples": 1, "l": [1.0]}, {"num-examples": 1, "l": [1.0, 2.0]}], ValueError),
    ],
)
def test_raises_what_a_strategy_logs(metrics: list[dict[str, Any]], error: type) -> None:
    with pytest.raises(error):
        average_metrics(replies(*metrics), "num-examples")
