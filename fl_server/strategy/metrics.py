"""The average of nodes' metrics."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from flwr.app import MetricRecord, RecordDict


def average_metrics(contents: list[RecordDict], weighted_by: str) -> MetricRecord:
    """Average each metric over the nodes that report it.

    What FedAvg takes, with one difference: it refuses replies that report different metrics.

    Parameters
    ----------
    contents : list of RecordDict
        Replies, each with one MetricRecord.
    weighted_by : str
        Metric that holds a reply's weight; it is not averaged itself.

    Returns
    -------
    MetricRecord
        Lists element by element.

    Raises
    ------
    KeyError
        If a reply does not state its weight.
    ZeroDivisionError
        If the weights of all who report a metric are 0.
    ValueError
        If a metric's lists have different lengths, or a reply holds another number of
        MetricRecords.
    """
    values, weights = defaultdict(list), defaultdict(list)
    for content in contents:
        (metrics,) = content.metric_records.values()
        weight = metrics[weighted_by]
        for name, value in metrics.items():
            if name != weighted_by:
                values[name].append(value)
                weights[name].append(weight)
    return MetricRecord(
        {name: np.average(values[name], 0, weights[name]).tolist() for name in values}
    )
