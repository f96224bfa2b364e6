"""The mod: what leaves a node in Flower's messages, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from fl_client.mods import sealed_uploads
from fl_protocol.ports import SystemRng
from fl_server.stack import LocalStack
from fl_server.strategy import FedBuff
from tests.support.federation import (
    Recorder,
    accuracy_of,
    client_app,
    initial_arrays,
    virtual_grid,
)
from tests.support.sealed import ARRAYS, open_run

CONFIG: dict[str, Any] = {
    "asynclave-run-id": "mod",
    "asynclave-base-version": 0,
    "asynclave-weighted-by": "num-examples",
    "asynclave-replies": "weights",
}
App = Callable[[Message, Context], Message]


def task(config: dict[str, Any] | None = None, kind: str = MessageType.TRAIN) -> Message:
    arrays = ArrayRecord({name: Array(array) for name, array in ARRAYS.items()})
    entries = ConfigRecord(CONFIG if config is None else config)
    return Message(RecordDict({"arrays": arrays, "config": entries}), 1, kind)


def context(config: Path | None) -> Context:
    node_config = {} if config is None else {"asynclave-config": str(config)}
    return Context(1, 1, node_config, RecordDict(), {})


def app(change: Callable[[dict[str, Any]], None] = lambda arrays: None, examples: Any = 10) -> App:
    def train(message: Message, context: Context) -> Message:
        arrays = {name: array + 1 if name != "steps" else array for name, array in ARRAYS.items()}
        change(arrays)
        record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        metrics = MetricRecord({"num-examples": examples, "loss": 0.5})
        extra = ConfigRecord({"note": b"anything"})
        content = RecordDict({"arrays": record, "metrics": metrics, "extra": extra})
        return Message(content, reply_to=message)

    return train


@pytest.fixture
def config(stack: LocalStack) -> Path:
    """A node that has contributed nothing yet."""
    return stack.client_config(f"mod-node-{SystemRng().bytes(4).hex()}")


def receipt_in(reply: Message) -> ConfigRecord:
    assert not reply.has_error(), reply.error.reason
    return reply.content.config_records["asynclave-receipt"]


def test_a_training_reply_carries_metrics_and_receipt_only(stack: LocalStack, config: Path) -> None:
    intake = open_run(stack, "mod")
    reply = sealed_uploads()(task(), context(config), app())
    assert set(reply.content) == {"metrics", "asynclave-receipt"}
    assert reply.content.metric_records["metrics"]["num-examples"] == 10
    record = receipt_in(reply)
    assert record["code"] == "accepted"
    assert intake.offer(reply.content, "node", 0, np.zeros(16, np.float32), 0.0).accepted
    intake.close()


BASE = np.concatenate([ARRAYS["weight"].ravel(), ARRAYS["bias"]])


# Weights + 1 are a delta of 1; or else the nodes state their weights + 1 to be the delta.
@pytest.mark.parametrize(("replies", "delta"), [("weights", 1), ("deltas", BASE + 1)])
def test_the_sealed_delta_is_reply_minus_model_or_the_reply_itself(
    stack: LocalStack, config: Path, replies: str, delta: Any
) -> None:
    intake = open_run(stack, f"mod-{replies}")
    settings = {**CONFIG, "asynclave-run-id": f"mod-{replies}", "asynclave-replies": replies}
    for node, path in enumerate([config, stack.client_config("mod-node-2")]):
        reply = sealed_uploads(path)(task(settings), context(None), app())
        assert intake.offer(reply.content, str(node), 0, np.zeros(16, np.float32), 0.0).accepted
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, BASE + delta, rtol=1e-6)
    intake.close()


def test_a_node_given_another_task_is_not_mixed_with_the_others(
    stack: LocalStack, config: Path
) -> None:
    intake = open_run(stack, "mod")
    first = sealed_uploads(config)(task({**CONFIG, "lr": 0.1}), context(None), app())
    assert receipt_in(first)["code"] == "accepted"
    bystander = sealed_uploads(stack.client_config("mod-bystander"))
    refused = bystander(task({**CONFIG, "lr": 0.0}), context(None), app())
    assert receipt_in(refused)["code"] == "ENV_TASK"
    other = sealed_uploads(stack.client_config("mod-other"))
    same = other(task({**CONFIG, "lr": 0.1}), context(None), app())
    assert receipt_in(same)["code"] == "accepted"
    intake.close()


def must_not_train(message: Message, context: Context) -> Message:
    raise AssertionError("trained although the update could not be sent")


def test_a_run_opened_again_gets_the_update_that_was_discarded_and_no_second_one(
    stack: LocalStack, config: Path
) -> None:
    first = open_run(stack, "mod")
    before = receipt_in(sealed_uploads(config)(task(), context(None), app()))
    first.close()
    again = open_run(stack, "mod")
    reply = sealed_uploads(config)(task(), context(None), must_not_train)
    record = receipt_in(reply)
    assert record["code"] == "accepted"
    ids = [json.loads(receipt["payload"])["update_id"] for receipt in (before, record)]
    assert ids[0] == ids[1]
    assert reply.content.metric_records["metrics"]["num-examples"] == 10
    assert again.offer(reply.content, "node", 0, np.zeros(16, np.float32), 0.0).accepted
    again.close()


def with_second(name: str, record: ArrayRecord | MetricRecord) -> App:
    """An app whose reply holds a second record of one kind."""

    def train(message: Message, context: Context) -> Message:
        reply = app()(message, context)
        reply.content[name] = record
        return reply

    return train


def _nan(arrays: dict[str, Any]) -> None:
    arrays["bias"] = np.full(4, np.nan, np.float32)


def _extra(arrays: dict[str, Any]) -> None:
    arrays["extra"] = np.zeros(2, np.float32)


def _reshaped(arrays: dict[str, Any]) -> None:
    arrays["weight"] = arrays["weight"].reshape(4, 3)


@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        (app(_nan), "NONFINITE"),
        (with_second("more", ArrayRecord({"more": Array(np.zeros(2))})), "ENV_MANIFEST"),
        (with_second("more", MetricRecord({"num-examples": 1})), "BAD_NUM_EXAMPLES"),
        (app(_extra), "ENV_MANIFEST"),
        (app(_reshaped), "ENV_MANIFEST"),
        (app(examples=0), "BAD_NUM_EXAMPLES"),
        (app(examples=1.5), "BAD_NUM_EXAMPLES"),
    ],
)
def test_a_refusal_travels_as_a_code_and_raises_nothing(
    stack: LocalStack, config: Path, spoiled: App, code: str
) -> None:
    intake = open_run(stack, "mod")
    reply = sealed_uploads(config)(task(), context(None), spoiled)
    assert receipt_in(reply)["code"] == code
    assert not reply.content.array_records
    outcome = intake.offer(reply.content, "node", 0, np.zeros(16, np.float32), 0.0)
    assert (outcome.accepted, outcome.code) == (False, code)
    intake.close()


def _reordered(arrays: dict[str, Any]) -> None:
    for name in sorted(arrays):
        array = arrays.pop(name)
        arrays[name] = array if name == "steps" else array.astype(np.float64)


def test_arrays_are_sealed_in_the_models_order_and_precision(
    stack: LocalStack, config: Path
) -> None:
    intake = open_run(stack, "mod")
    reply = sealed_uploads(config)(task(), context(None), app(_reordered))
    assert receipt_in(reply)["code"] == "accepted"
    intake.close()


def test_the_node_logs_which_array_does_not_fit(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sealed_uploads(config)(task(), context(None), app(_extra))
    assert "ENV_MANIFEST: The model has no array 'extra'." in caplog.text


def test_a_training_task_without_a_run_never_sends_plain_arrays(config: Path) -> None:
    reply = sealed_uploads(config)(task({}), context(None), must_not_train)
    assert reply.has_error()
    assert reply.error.reason.startswith("CONFIG_INVALID: ")


def test_other_messages_pass_untouched(config: Path) -> None:
    message = task({}, MessageType.EVALUATE)
    reply = sealed_uploads(config)(message, context(None), app())
    assert set(reply.content) == {"arrays", "metrics", "extra"}


def test_a_node_without_a_bundle_says_how_to_give_it_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCLAVE_CLIENT_CONFIG", raising=False)
    reply = sealed_uploads()(task(), context(None), app())
    assert "CONFIG_INVALID" in reply.error.reason
    assert "ASYNCLAVE_CLIENT_CONFIG" in reply.error.reason


def test_an_unknown_run_is_a_code_the_server_can_act_on(stack: LocalStack, config: Path) -> None:
    open_run(stack, "some-run").close()
    reply = sealed_uploads(config)(task(), context(None), app())
    assert receipt_in(reply)["code"] == "ENV_RUN"


def test_a_federation_trains_confidentially(stack: LocalStack) -> None:
    bundles = {
        number: {"asynclave-config": str(stack.client_config(f"digit-{number}"))}
        for number in range(4)
    }
    plain_arrays_sent: list[str] = []

    def outside(message: Message, context: Context, call_next: App) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == MessageType.TRAIN:
            plain_arrays_sent.extend(reply.content.array_records)
        return reply

    recorder = Recorder()
    # The stack's policy allows this recipe and no other.
    strategy = FedBuff(
        buffer_size=2,
        staleness_exponent=0.0,
        server_lr=1.0,
        gateway=stack.server_config(),
        callbacks=[recorder],
    )
    grid = virtual_grid(4, client_app(mods=[outside, sealed_uploads()]), node_configs=bundles)
    result = strategy.start(grid, initial_arrays(), num_rounds=40)
    assert plain_arrays_sent == []
    assert len(recorder.merges) == 40
    assert all(update.accepted for update in recorder.updates), recorder.updates
    assert accuracy_of(result.arrays) > 0.9


@pytest.mark.parametrize(
    "place", ["", "identity.json", "enrolment.json", "epoch", "outbox", "contributions"]
)
def test_a_node_whose_folder_cannot_be_used_says_which(config: Path, place: str) -> None:
    # A folder where a file should be, or the other way round, is what root cannot use, either.
    folder = config.parent / json.loads(config.read_text())["identity_dir"]
    if place in ("", "outbox", "contributions"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    else:
        (folder / place).mkdir(parents=True)
    reply = sealed_uploads()(task(), context(config), app())
    assert reply.error.reason.startswith(f"JOURNAL_FAILED: {folder} could not be used: ")
