"""Runs of the asynchronous strategies on virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord

from fl_protocol.codes import Code, GatewayUnavailable
from fl_server.intake.base import Outcome
from fl_server.intake.plain import PlainIntake
from fl_server.strategy import AsyncStrategy, AsyncWA, FedAsync, FedBuff
from fl_sim.failures import Failures
from tests.support.federation import (
    Recorder,
    accuracy_of,
    central,
    client_app,
    initial_arrays,
    train,
    virtual_grid,
)

Make = Callable[..., AsyncStrategy]


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
