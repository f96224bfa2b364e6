from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result

from fl_protocol.codes import Code, GatewayUnavailable
from fl_server.intake.base import Outcome
from fl_server.intake.plain import PlainIntake
from fl_server.strategy import AsyncStrategy, AsyncWA, FedAsync, FedBuff, NoProgress
from fl_sim.devices import Devices
from fl_sim.failures import Failures
from fl_sim.grid import FIRST_NODE_ID, Presence, VirtualGrid
from tests.support.federation import (
    Mod,
    Recorder,
    accuracy_of,
    central,
    client_app,
    initial_arrays,
    partition,
    virtual_grid,
)

Make = Callable[..., AsyncStrategy]


def train(strategy: AsyncStrategy, grid: VirtualGrid, rounds: int, **options: object) -> Result:
    return strategy.start(grid, initial_arrays(), num_rounds=rounds, **options)


def spoiled(clients: set[int], spoil: Callable[[Message], None]) -> Mod:
    """A mod that spoils the training replies of some clients."""

    def mod(message: Message, context: Context, call_next: object) -> Message:
        reply = call_next(message, context)
        if partition(context) in clients and message.metadata.message_type == MessageType.TRAIN:
            spoil(reply)
        assert isinstance(reply, Message)
        return reply

    return mod


def fill_with_nan(reply: Message) -> None:
    record = next(iter(reply.content.array_records.values()))
    for name, array in list(record.items()):
        record[name] = Array(np.full_like(array.numpy(), np.nan))


@pytest.mark.parametrize(
    ("make", "rounds"),
    [
        (lambda **o: AsyncWA(buffer_size=4, server_lr=1.0, **o), 60),
        (lambda **o: AsyncWA(buffer_size=3, disjoint=True, server_lr=1.0, **o), 25),
        (lambda **o: FedBuff(buffer_size=3, **o), 25),
        (lambda **o: FedAsync(**o), 60),
    ],
    ids=["async-wa", "async-wa-disjoint", "fedbuff", "fedasync"],
)
def test_accuracy_rises(make: Make, rounds: int) -> None:
    result = train(make(fraction_evaluate=0.0), virtual_grid(), rounds, evaluate_fn=central)
    series = result.evaluate_metrics_serverapp
    assert list(series) == list(range(rounds + 1))
    assert series[rounds]["accuracy"] > series[0]["accuracy"] + 0.2
    assert accuracy_of(result.arrays) == series[rounds]["accuracy"]


def test_the_same_seed_gives_the_same_model_and_the_same_course() -> None:
    def run(seed: int) -> tuple[str, list[object]]:
        recorder = Recorder()
        strategy = AsyncWA(seed=seed, fraction_train=0.5, callbacks=[recorder])
        train(strategy, virtual_grid(failures=Failures(drop_out=0.1)), 30)
        return recorder.merges[-1].digest, list(recorder.updates)

    assert run(1) == run(1)
    assert run(1)[0] != run(2)[0]


def test_staleness_is_the_number_of_versions_between_sending_and_receiving() -> None:
    sent: dict[tuple[int, int], int] = {}

    def note(message: Message, context: Context, call_next: object) -> Message:
        if message.metadata.message_type == MessageType.TRAIN:
            config = message.content["config"]
            base = config["asynclave-base-version"]
            sent[context.node_id, len(sent)] = base
            assert config["server-round"] == base + 1
        return call_next(message, context)

    recorder = Recorder()
    strategy = FedAsync(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, virtual_grid(app=client_app(mods=[note])), 40)

    bases = list(sent.items())
    assert len(recorder.updates) == len(bases) == 40
    for event, ((node, _), base) in zip(recorder.updates, bases, strict=True):
        assert event.client == str(node)
        assert event.staleness == event.version - base
    assert max(event.staleness for event in recorder.updates) > 3
    assert min(event.staleness for event in recorder.updates) == 0


def test_a_failing_client_app_does_not_stop_the_run_and_backs_off() -> None:
    def fail(message: Message, context: Context, call_next: object) -> Message:
        if partition(context) == 0:
            raise RuntimeError("out of memory")
        return call_next(message, context)

    recorder = Recorder()
    strategy = AsyncWA(fraction_evaluate=0.0, callbacks=[recorder])
    every_task_takes_one_second = VirtualGrid(client_app(mods=[fail]), 6)
    result = train(strategy, every_task_takes_one_second, 60, evaluate_fn=central)

    failed = [e for e in recorder.updates if not e.accepted]
    assert {(e.client, e.code) for e in failed} == {(str(FIRST_NODE_ID), "CLIENT_FAILED")}
    assert np.diff([e.time for e in failed]).tolist() == [1 + 1, 2 + 1, 4 + 1]
    assert result.evaluate_metrics_serverapp[60]["accuracy"] > 0.8


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


def test_reports_no_progress_with_the_last_failure() -> None:
    app = ClientApp()

    @app.train()
    def fail(message: Message, context: Context) -> Message:
        raise RuntimeError("no such dataset")

    with pytest.raises(NoProgress) as caught:
        train(AsyncWA(), virtual_grid(app=app), 3, timeout=100.0)
    assert caught.value.code == "NO_PROGRESS"
    assert "no such dataset" in str(caught.value)


def test_reports_no_progress_when_too_few_nodes_connect() -> None:
    grid = virtual_grid(3)
    with pytest.raises(NoProgress, match="3 of 5 nodes connected"):
        train(AsyncWA(min_available_nodes=5), grid, 3, timeout=20.0)
    assert grid.clock.now() >= 20.0


def test_waits_for_the_minimum_of_available_nodes() -> None:
    recorder = Recorder()
    grid = virtual_grid(3, presence={2: Presence(joins=50.0)})
    strategy = AsyncWA(min_available_nodes=3, fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, grid, 3)
    assert grid.clock.now() > 50.0


def test_nodes_that_join_late_contribute_and_nodes_that_leave_are_done_without() -> None:
    recorder = Recorder()
    presence = {0: Presence(leaves=6.0), 1: Presence(joins=10.0)}
    strategy = AsyncWA(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, virtual_grid(presence=presence), 60)
    times = {
        n: [e.time for e in recorder.updates if e.client == str(FIRST_NODE_ID + n)] for n in (0, 1)
    }
    assert max(times[0]) <= 6.0
    assert times[1]
    assert min(times[1]) > 10.0


def test_waits_for_nodes_if_all_are_gone_when_a_version_is_composed() -> None:
    recorder = Recorder()
    away = {0: Presence(leaves=0.5), 1: Presence(leaves=0.5), 2: Presence(joins=30.0)}
    grid = VirtualGrid(client_app(), 3, Devices((0.5,) * 3, jitter=0.0), presence=away)
    strategy = FedBuff(buffer_size=1, fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, grid, 3, timeout=60.0)
    assert [event.time > 30.0 for event in recorder.merges] == [False, False, True]


def test_reports_no_progress_when_all_nodes_stay_away() -> None:
    away = {0: Presence(leaves=0.5), 1: Presence(leaves=0.5)}
    grid = VirtualGrid(client_app(), 2, Devices((0.5,) * 2, jitter=0.0), presence=away)
    with pytest.raises(NoProgress, match="0 nodes connected"):
        train(FedBuff(buffer_size=1, fraction_evaluate=0.0), grid, 3, timeout=20.0)


def test_an_override_that_sends_nothing_yet_is_asked_again() -> None:
    asked: list[int] = []

    class Hesitant(FedAsync):
        def configure_train(self, server_round, arrays, config, grid):
            asked.append(server_round)
            messages = super().configure_train(server_round, arrays, config, grid)
            return messages if len(asked) > 3 else []

    grid = virtual_grid()
    train(Hesitant(fraction_evaluate=0.0), grid, 2)
    assert asked == [1, 1, 1, 1, 2]
    assert grid.clock.now() > 3.0


def test_silent_nodes_are_asked_again_after_their_lease() -> None:
    recorder = Recorder()
    grid = virtual_grid(8, failures=Failures(silent=0.1, seed=2))
    strategy = AsyncWA(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, grid, 100, timeout=10.0)
    lost = [e for e in recorder.updates if e.code == "CLIENT_FAILED"]
    assert lost
    again = [e for e in recorder.updates if e.accepted and e.client == lost[0].client]
    assert max(e.time for e in again) > lost[0].time


def test_keeps_the_wanted_share_of_nodes_in_flight_and_one_task_per_node() -> None:
    grid = virtual_grid(10)
    busy: set[int] = set()
    most = 0
    push, pull = grid.push_messages, grid.pull_messages

    def counted_push(messages: list[Message]) -> list[str]:
        nonlocal most
        (message,) = messages
        assert message.metadata.dst_node_id not in busy
        busy.add(message.metadata.dst_node_id)
        most = max(most, len(busy))
        return push(messages)

    def counted_pull(ids: list[str]) -> list[Message]:
        replies = pull(ids)
        busy.difference_update(r.metadata.src_node_id for r in replies)
        return replies

    grid.push_messages, grid.pull_messages = counted_push, counted_pull
    train(AsyncWA(fraction_train=0.4, fraction_evaluate=0.0), grid, 40)
    assert most == 4


def test_a_small_federation_never_locks_itself_up() -> None:
    strategy = FedBuff(min_available_nodes=1, fraction_evaluate=0.0)
    result = train(strategy, virtual_grid(1), 3, evaluate_fn=central)
    assert len(result.evaluate_metrics_serverapp) == 4


def test_an_interrupted_run_leaves_a_readable_result() -> None:
    def interrupt(version: int, arrays: ArrayRecord) -> MetricRecord:
        if version == 7:
            raise KeyboardInterrupt
        return central(version, arrays)

    strategy = AsyncWA(server_lr=1.0)
    with pytest.raises(KeyboardInterrupt):
        train(strategy, virtual_grid(), 50, evaluate_fn=interrupt)
    assert list(strategy.result.evaluate_metrics_serverapp) == list(range(7))
    assert list(strategy.result.train_metrics_clientapp) == list(range(1, 8))
    assert accuracy_of(strategy.result.arrays) != accuracy_of(initial_arrays())


def test_a_callback_can_stop_the_run() -> None:
    strategy = AsyncWA(fraction_evaluate=0.0, callbacks=[lambda event: strategy.stop()])
    result = train(strategy, virtual_grid(), 50, evaluate_fn=central)
    assert len(result.evaluate_metrics_serverapp) == 2


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


def test_clients_reply_deltas_when_asked_to() -> None:
    def digest(replies: str) -> list[float]:
        strategy = FedBuff(replies=replies, buffer_size=3, fraction_evaluate=0.0)
        arrays = train(strategy, virtual_grid(), 5).arrays
        return [float(v) for a in arrays.values() for v in a.numpy().ravel()]

    assert digest("deltas") == pytest.approx(digest("weights"), abs=1e-5)


def test_an_override_may_adapt_the_config_once_per_version() -> None:
    rates: list[float] = []

    class Decaying(FedBuff):
        def configure_train(self, server_round, arrays, config, grid):
            config["lr"] = config["lr"] * 0.5
            return super().configure_train(server_round, arrays, config, grid)

    def note(message: Message, context: Context, call_next: object) -> Message:
        rates.append(message.content["config"]["lr"])
        return call_next(message, context)

    strategy = Decaying(buffer_size=2, fraction_evaluate=0.0)
    grid = virtual_grid(app=client_app(mods=[note]))
    train(strategy, grid, 4, train_config=ConfigRecord({"lr": 0.8}))
    assert set(rates) <= {0.4, 0.2, 0.1, 0.05}
    assert {0.4, 0.2} <= set(rates)


def test_a_gateway_out_of_reach_does_not_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    offer, calls = PlainIntake.offer, 0

    def flaky(self: PlainIntake, *arguments: Any) -> Outcome:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise GatewayUnavailable(Code.GATEWAY_UNAVAILABLE)
        return offer(self, *arguments)

    monkeypatch.setattr(PlainIntake, "offer", flaky)
    recorder = Recorder()
    strategy = FedAsync(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, virtual_grid(), 20)
    assert len(recorder.merges) == 20
    assert {e.code for e in recorder.updates} == {"accepted", "GATEWAY_UNAVAILABLE"}


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
