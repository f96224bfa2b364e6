"""What a node may reply, what is refused, and which metrics come of it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message
from flwr.clientapp import ClientApp

from fl_server.strategy import FedAsync, FedBuff, NoProgress
from fl_sim.grid import FIRST_NODE_ID
from tests.support.federation import (
    Recorder,
    accuracy_of,
    client_app,
    initial_arrays,
    partition,
    spoiled,
    train,
    virtual_grid,
)


def fill_with_nan(reply: Message) -> None:
    record = next(iter(reply.content.array_records.values()))
    for name, array in list(record.items()):
        record[name] = Array(np.full_like(array.numpy(), np.nan))


def test_refuses_update_with_nan_and_never_changes_the_model_by_it() -> None:
    recorder = Recorder()
    app = client_app(mods=[spoiled({0, 1, 2, 3, 4, 5}, fill_with_nan)])
    strategy = FedBuff(buffer_size=1, fraction_evaluate=0.0, callbacks=[recorder])
    with pytest.raises(NoProgress):
        train(strategy, virtual_grid(app=app), 5, timeout=30.0)
    assert {e.code for e in recorder.updates} == {"NONFINITE"}
    for name, array in initial_arrays().items():
        assert np.array_equal(strategy.result.arrays[name].numpy(), array.numpy())


def test_refused_updates_of_one_client_leave_the_others_result_untouched() -> None:
    recorder = Recorder()
    app = client_app(mods=[spoiled({2}, fill_with_nan)])
    strategy = FedBuff(buffer_size=2, fraction_evaluate=0.0, callbacks=[recorder])
    result = train(strategy, virtual_grid(app=app), 25)
    refused = {e.client for e in recorder.updates if not e.accepted}
    assert refused == {str(FIRST_NODE_ID + 2)}
    assert accuracy_of(result.arrays) > 0.8


def of_dtype(dtype: str) -> Callable[[Message], None]:
    def convert(reply: Message) -> None:
        record = reply.content["arrays"]
        for name, array in list(record.items()):
            record[name] = Array(array.numpy().astype(dtype))

    return convert


def in_another_order(reply: Message) -> None:
    record = reply.content["arrays"]
    for name in sorted(record, reverse=True):
        record[name] = record.pop(name)


@pytest.mark.parametrize("change", [of_dtype("float64"), of_dtype("float16"), in_another_order])
def test_arrays_of_any_precision_and_order_count(change: Callable[[Message], None]) -> None:
    def weights(app: ClientApp) -> np.ndarray:
        strategy = FedBuff(buffer_size=3, fraction_evaluate=0.0)
        result = train(strategy, virtual_grid(app=app), 3)
        assert list(result.arrays) == list(initial_arrays())
        return np.concatenate([a.numpy().ravel() for a in result.arrays.values()])

    changed = client_app(mods=[spoiled(set(range(6)), change)])
    np.testing.assert_allclose(weights(changed), weights(client_app()), atol=2e-3)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda r: r.content["arrays"].pop("2.bias"), "array '2.bias' is missing"),
        (
            lambda r: r.content["arrays"].update({"lora": Array(np.zeros(2))}),
            "no array 'lora'",
        ),
        (
            lambda r: r.content["arrays"].update({"2.bias": Array(np.zeros(2))}),
            r"'2.bias' has the shape \(2,\), the model's \(3,\)",
        ),
        (lambda r: r.content.update({"more": ArrayRecord()}), "2 ArrayRecords"),
        (lambda r: r.content["metrics"].update({"num-examples": 0.5}), "whole number .* holds 0.5"),
        (lambda r: r.content["metrics"].update({"num-examples": 10**9}), "max_examples"),
    ],
)
def test_no_progress_says_what_is_wrong_with_replies(
    spoil: Callable[[Message], None], sentence: str
) -> None:
    app = client_app(mods=[spoiled(set(range(6)), spoil)])
    with pytest.raises(NoProgress, match=sentence):
        train(FedAsync(fraction_evaluate=0.0), virtual_grid(app=app), 2, timeout=20.0)


def saved(save: Callable[..., None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, np.zeros(6, np.float32))
    return buffer.getvalue()


def spoil_bias(reply: Message, data: bytes) -> None:
    reply.content["arrays"]["0.bias"] = Array("float32", (6,), "numpy.ndarray", data)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda r: r.content.pop("metrics"), "BAD_NUM_EXAMPLES"),
        (lambda r: r.content["metrics"].update({"num-examples": 0}), "BAD_NUM_EXAMPLES"),
        (lambda r: r.content["metrics"].update({"num-examples": 1.5}), "BAD_NUM_EXAMPLES"),
        (lambda r: r.content.pop("arrays"), "WRONG_SHAPE"),
        (lambda r: r.content["arrays"].popitem(), "WRONG_SHAPE"),
        (lambda r: spoil_bias(r, b"no array"), "WRONG_SHAPE"),
        (lambda r: spoil_bias(r, b"PK\x03\x04"), "WRONG_SHAPE"),
        (lambda r: spoil_bias(r, saved(np.savez)), "WRONG_SHAPE"),
        (lambda r: spoil_bias(r, saved(np.save)[:40]), "WRONG_SHAPE"),
        (
            lambda r: spoil_bias(r, saved(np.save).replace(b"(6,)", b"(9" + b"9" * 13 + b",)")),
            "WRONG_SHAPE",
        ),
        (lambda r: r.content.update({"more": ArrayRecord()}), "WRONG_SHAPE"),
    ],
    ids=[
        *("no-metrics", "no-examples", "half-example", "no-arrays", "missing"),
        *("garbage", "zip", "archive", "cut", "huge", "two"),
    ],
)
def test_malformed_replies_are_refused_by_name(spoil: Callable[[Message], None], code: str) -> None:
    recorder = Recorder()
    app = client_app(mods=[spoiled({1}, spoil)])
    strategy = FedAsync(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, virtual_grid(app=app), 20)
    refused = [e for e in recorder.updates if e.client == str(FIRST_NODE_ID + 1)]
    assert refused
    assert {e.code for e in refused} == {code}


def test_train_metrics_are_weighted_by_the_number_of_examples() -> None:
    def state_client(reply: Message) -> None:
        reply.content["metrics"]["client"] = reply.metadata.src_node_id

    recorder = Recorder()
    app = client_app(mods=[spoiled(set(range(6)), state_client)])
    strategy = FedBuff(buffer_size=3, fraction_evaluate=0.0, callbacks=[recorder])
    result = train(strategy, virtual_grid(app=app), 1)
    nodes = [int(e.client) for e in recorder.updates]
    examples = [30 + node - FIRST_NODE_ID for node in nodes]
    mean = result.train_metrics_clientapp[1]["client"]
    assert len(nodes) == 3
    assert mean == pytest.approx(np.average(nodes, weights=examples))
    assert "num-examples" not in result.train_metrics_clientapp[1]


def test_a_metric_that_one_node_reports_is_that_nodes_value() -> None:
    def state_load(reply: Message) -> None:
        reply.content["metrics"]["utilisation"] = 80.0

    app = client_app(mods=[spoiled({2}, state_load)])
    strategy = FedBuff(buffer_size=6, fraction_evaluate=0.0)
    result = train(strategy, virtual_grid(app=app), 1)
    assert result.train_metrics_clientapp[1]["utilisation"] == pytest.approx(80.0)


def test_broken_metrics_do_not_stop_the_run() -> None:
    def unequal(reply: Message) -> None:
        reply.content["metrics"]["extra"] = [1.0] * (reply.metadata.src_node_id % 3)

    app = client_app(mods=[spoiled(set(range(6)), unequal)])
    result = train(FedBuff(buffer_size=3, fraction_evaluate=0.0), virtual_grid(app=app), 5)
    assert len(result.train_metrics_clientapp) < 5


def test_a_code_in_a_clients_error_reaches_the_observer() -> None:
    def refuse(message: Message, context: Context, call_next: object) -> Message:
        if partition(context) == 0:
            error = Error(1, "EVIDENCE_DEBUG: The enclave runs with debugging on.")
            return Message(error, reply_to=message)
        return call_next(message, context)

    recorder = Recorder()
    strategy = FedAsync(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, virtual_grid(app=client_app(mods=[refuse])), 20)
    codes = {e.code for e in recorder.updates if e.client == str(FIRST_NODE_ID)}
    assert codes == {"EVIDENCE_DEBUG"}
