"""The digest that binds an update to what its ClientApp was told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict

from fl_protocol.codes import ConfigInvalid
from fl_protocol.task import task_digest

ENTRIES: dict[str, Any] = {
    "asynclave-run-id": "run",
    "asynclave-base-version": 4,
    "server-round": 5,
    "lr": 0.1,
}
CARRIED = {"steps": np.array(3, np.int64)}


def digest(
    entries: Mapping[str, Any] = ENTRIES,
    *,
    carried: Mapping[str, Any] = CARRIED,
    run_config: Mapping[str, Any] | None = None,
    kind: str = MessageType.TRAIN,
    **records: ArrayRecord | ConfigRecord | MetricRecord,
) -> str:
    content = RecordDict({"config": ConfigRecord(dict(entries)), **records})
    return task_digest(
        kind,
        content.config_records,
        content.metric_records,
        content.array_records,
        carried,
        run_config or {},
    )


def test_the_same_task_of_two_versions_has_one_digest() -> None:
    later = {**ENTRIES, "asynclave-base-version": 7, "server-round": 8}
    assert digest(later) == digest()


@pytest.mark.parametrize(
    "options",
    [
        {"entries": {**ENTRIES, "lr": 0.0}},
        {"entries": {**ENTRIES, "lr": "0.1"}},
        {"entries": {**ENTRIES, "epochs": 0}},
        {"entries": {**ENTRIES, "layers": [1, 2]}},
        {"entries": {**ENTRIES, "mask": b"x"}},
        {"more": ConfigRecord({"lr": 0.0})},
        {"more": MetricRecord({"lr": 0.0})},
        {"carried": {"steps": np.array(4, np.int64)}},
        {"run_config": {"lr": 0.0}},
        {"kind": "train.other"},
        {"entries": {name: value for name, value in ENTRIES.items() if name != "server-round"}},
        {"entries": {**ENTRIES, "server-round": 5.0}},
        {"more": ArrayRecord()},
    ],
    ids=str,
)
def test_whatever_could_steer_training_changes_the_digest(options: dict[str, Any]) -> None:
    assert digest(**options) != digest()


@pytest.mark.parametrize(
    "changed",
    [{"server-round": 10**6}, {"server-round": "5"}, {"server-round": -1}],
    ids=str,
)
def test_a_round_that_does_not_follow_from_the_version_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid, match="server-round"):
        digest({**ENTRIES, **changed})


def test_two_base_versions_are_refused() -> None:
    with pytest.raises(ConfigInvalid, match="base version"):
        digest(more=ConfigRecord({"asynclave-base-version": 5}))
