from __future__ import annotations

import pytest
from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp

from fl_server.strategy import AsyncWA, FedBuff
from fl_sim.failures import Failures
from fl_sim.grid import FIRST_NODE_ID, Presence
from tests.support.federation import (
    Recorder,
    accuracy_of,
    client_app,
    initial_arrays,
    partition,
    virtual_grid,
)


def test_the_last_version_is_always_evaluated_by_clients() -> None:
    recorder = Recorder()
    strategy = AsyncWA(callbacks=[recorder])
    result = strategy.start(virtual_grid(), initial_arrays(), num_rounds=20)
    assert recorder.evaluations[-1].version == 20
    assert recorder.evaluations[-1].num_replies == 6
    assert 0.0 <= result.evaluate_metrics_clientapp[20]["eval-acc"] <= 1.0


def test_rounds_of_evaluation_go_on_beside_training_one_at_a_time() -> None:
    recorder = Recorder()
    strategy = AsyncWA(fraction_evaluate=0.5, min_evaluate_nodes=2, callbacks=[recorder])
    strategy.start(virtual_grid(), initial_arrays(), num_rounds=60)
    versions = [event.version for event in recorder.evaluations]
    assert len(versions) >= 3
    assert versions == sorted(set(versions))
    assert {event.num_replies for event in recorder.evaluations[:-2]} == {3}


def test_clients_evaluate_the_published_model() -> None:
    seen: dict[int, float] = {}

    def note(message: Message, context: Context, call_next: object) -> Message:
        if message.metadata.message_type == MessageType.EVALUATE:
            version = message.content["config"]["server-round"]
            arrays = next(iter(message.content.array_records.values()))
            seen[version] = accuracy_of(arrays)
        return call_next(message, context)

    def central(version: int, arrays: object) -> None:
        published[version] = accuracy_of(arrays)

    published: dict[int, float] = {}
    grid = virtual_grid(app=client_app(mods=[note]))
    AsyncWA().start(grid, initial_arrays(), num_rounds=20, evaluate_fn=central)
    assert seen
    assert seen == {version: published[version] for version in seen}


def test_metrics_are_weighted_by_the_number_of_examples() -> None:
    def state(message: Message, context: Context, call_next: object) -> Message:
        reply: Message = call_next(message, context)
        if message.metadata.message_type == MessageType.EVALUATE:
            number = partition(context)
            reply.content["metrics"].update({"value": number, "num-examples": 1 + number})
        return reply

    grid = virtual_grid(3, client_app(mods=[state]))
    result = FedBuff(buffer_size=2).start(grid, initial_arrays(), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["value"] == pytest.approx((0 + 2 + 6) / 6)


def test_an_app_without_evaluate_function_is_not_asked_for_ever() -> None:
    asked = 0
    app = ClientApp()
    full = client_app()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return full(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        nonlocal asked
        asked += 1
        raise NotImplementedError

    strategy = AsyncWA()
    result = strategy.start(virtual_grid(app=app), initial_arrays(), num_rounds=60)
    assert asked == 6
    assert result.evaluate_metrics_clientapp == {}
    assert len(result.train_metrics_clientapp) == 60


def test_a_round_of_nodes_that_drop_out_does_not_end_evaluation() -> None:
    recorder = Recorder()
    grid = virtual_grid(failures=Failures(drop_out=0.4, seed=1))
    strategy = AsyncWA(fraction_evaluate=0.1, min_evaluate_nodes=1, callbacks=[recorder])
    strategy.start(grid, initial_arrays(), num_rounds=60)
    lost = [event.metrics is None for event in recorder.evaluations]
    assert True in lost
    assert False in lost[lost.index(True) :]


def test_an_app_without_evaluate_function_is_found_out_beside_nodes_that_drop_out() -> None:
    app = ClientApp()
    full = client_app()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return full(message, context)

    recorder = Recorder()
    grid = virtual_grid(app=app, failures=Failures(drop_out=0.4, seed=1))
    AsyncWA(callbacks=[recorder]).start(grid, initial_arrays(), num_rounds=60)
    assert len(recorder.evaluations) == 1


def test_a_node_that_leaves_does_not_hold_up_a_round() -> None:
    recorder = Recorder()
    grid = virtual_grid(presence={0: Presence(leaves=4.0)})
    strategy = AsyncWA(callbacks=[recorder])
    strategy.start(grid, initial_arrays(), num_rounds=60)
    assert len(recorder.evaluations) >= 3
    assert recorder.evaluations[-1].num_replies == 5
    assert str(FIRST_NODE_ID) not in {e.client for e in recorder.updates if e.time > 4.0}


def test_no_evaluation_when_switched_off() -> None:
    recorder = Recorder()
    strategy = AsyncWA(fraction_evaluate=0.0, callbacks=[recorder])
    result = strategy.start(virtual_grid(), initial_arrays(), num_rounds=10)
    assert recorder.evaluations == []
    assert result.evaluate_metrics_clientapp == {}
