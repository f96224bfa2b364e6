from __future__ import annotations

import random

import pytest
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl_sim.devices import Devices
from fl_sim.failures import Failures
from fl_sim.grid import FIRST_NODE_ID, Presence, VirtualGrid
from tests.support.federation import (
    accuracy_of,
    central,
    echo_app,
    initial_arrays,
    virtual_grid,
)


def task(node: int, ttl: float = 1000.0, **config: int) -> Message:
    record = RecordDict({"config": ConfigRecord(dict(config))})
    return Message(record, node, MessageType.TRAIN, ttl=ttl)


def echo_grid(*seconds: float, **options: object) -> VirtualGrid:
    devices = Devices(seconds=seconds, jitter=0.0)
    return VirtualGrid(echo_app(), len(seconds), devices, **options)


A, B = FIRST_NODE_ID, FIRST_NODE_ID + 1


def test_delivers_replies_one_by_one_in_the_order_of_virtual_time() -> None:
    grid = echo_grid(5.0, 2.0)
    slow, fast = grid.push_messages([task(A), task(B)])
    seen = []
    for _ in range(2):
        (reply,) = grid.pull_messages([slow, fast])
        seen.append((reply.metadata.reply_to_message_id, grid.clock.now()))
    assert seen == [(fast, 2.0), (slow, 5.0)]
    assert grid.pull_messages([slow, fast]) == []


def test_does_not_jump_past_the_alarm() -> None:
    grid = echo_grid(5.0)
    ids = grid.push_messages([task(A)])
    grid.clock.set_alarm(3.0)
    assert grid.pull_messages(ids) == []
    assert grid.clock.now() == 3.0
    grid.clock.set_alarm(9.0)
    assert len(grid.pull_messages(ids)) == 1
    assert grid.clock.now() == 5.0


def test_a_node_works_on_its_messages_one_after_the_other() -> None:
    grid = echo_grid(4.0)
    grid.send_and_receive([task(A), task(A), task(A)])
    assert grid.clock.now() == 12.0


def test_a_query_takes_no_time_and_no_draw_of_a_task() -> None:
    app = echo_app()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    def second_task_ends(*messages: Message) -> float:
        grid = VirtualGrid(app, 1, Devices((5.0,), jitter=0.5))
        for message in messages:
            grid.send_and_receive([message])
        return grid.clock.now()

    query = Message(RecordDict(), A, MessageType.QUERY)
    assert second_task_ends(query) == 0.0
    assert second_task_ends(task(A), query, task(A)) == second_task_ends(task(A), task(A))


def test_a_query_is_answered_after_the_task_before_it() -> None:
    grid = echo_grid(4.0)
    grid.push_messages([task(A)])
    grid.send_and_receive([Message(RecordDict(), A, MessageType.QUERY)])
    assert grid.clock.now() == 4.0


def test_send_and_receive_gives_up_at_its_timeout() -> None:
    grid = echo_grid(1.0, 60.0)
    replies = grid.send_and_receive([task(A), task(B)], timeout=10.0)
    assert [reply.metadata.src_node_id for reply in replies] == [A]
    assert grid.clock.now() == 10.0


def test_an_exception_in_the_client_app_becomes_an_error_reply() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise RuntimeError("disk full")

    (reply,) = VirtualGrid(app, 1).send_and_receive([task(A)])
    assert reply.has_error()
    assert reply.error.reason == "RuntimeError: disk full"


def test_a_silent_node_is_reported_when_the_time_to_live_has_passed() -> None:
    grid = echo_grid(1.0, failures=Failures(silent=1.0))
    (reply,) = grid.send_and_receive([task(A, ttl=30.0)])
    assert reply.has_error()
    assert grid.clock.now() == 30.0


def test_a_node_that_drops_out_is_reported_before_its_task_would_have_ended() -> None:
    grid = echo_grid(1.0, failures=Failures(drop_out=1.0))
    (reply,) = grid.send_and_receive([task(A)])
    assert reply.has_error()
    assert 0.0 < grid.clock.now() < 1.0


def test_nodes_join_and_leave() -> None:
    presence = {0: Presence(leaves=3.0), 1: Presence(joins=2.0)}
    grid = echo_grid(10.0, 1.0, presence=presence)
    assert grid.get_node_ids() == [A]
    assert grid.push_messages([task(B)]) == [""]
    (reply,) = grid.send_and_receive([task(A)])
    assert reply.has_error()
    assert grid.clock.now() == 3.0
    assert grid.get_node_ids() == [B]


def test_a_message_changed_after_sending_arrives_as_it_was_sent() -> None:
    grid = echo_grid(1.0)
    message = task(A, lr=1)
    ids = grid.push_messages([message])
    message.content["config"]["lr"] = 2
    (reply,) = grid.pull_messages(ids)
    assert reply.content["config"]["lr"] == 1


def test_lists_that_an_app_changes_are_its_own() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        rates = message.content["config"]["rates"]
        assert isinstance(rates, list)
        rates.append(float(context.node_id))
        return Message(message.content, reply_to=message)

    grid, record = VirtualGrid(app, 2), ConfigRecord({"rates": [0.5]})
    content = RecordDict({"config": record})
    replies = grid.send_and_receive([Message(content, node, MessageType.TRAIN) for node in (A, B)])
    assert [reply.content["config"]["rates"] for reply in replies] == [[0.5, A], [0.5, B]]
    assert record["rates"] == [0.5]


def test_a_reply_changed_after_sending_arrives_as_it_was_sent() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        losses = context.state.setdefault("losses", MetricRecord({"loss": [0.0]}))
        assert isinstance(losses["loss"], list)
        losses["loss"].append(1.0)
        return Message(RecordDict({"losses": losses}), reply_to=message)

    replies = VirtualGrid(app, 1).send_and_receive([task(A), task(A)])
    assert [len(reply.content["losses"]["loss"]) for reply in replies] == [2, 3]


def test_context_state_survives_between_messages_of_a_node() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen = context.state.get("seen", ConfigRecord({"count": 0}))
        context.state["seen"] = ConfigRecord({"count": int(seen["count"]) + 1})
        return Message(RecordDict({"seen": context.state["seen"]}), reply_to=message)

    grid = VirtualGrid(app, 2)
    replies = grid.send_and_receive([task(A), task(A), task(B)])
    counts = [(r.metadata.src_node_id, r.content["seen"]["count"]) for r in replies]
    assert sorted(counts) == [(A, 1), (A, 2), (B, 1)]


@pytest.mark.parametrize("seed", [1, 2])
def test_drives_flowers_own_fedavg_unchanged(seed: int) -> None:
    def run() -> tuple[VirtualGrid, ArrayRecord, list[float]]:
        random.seed(seed)  # FedAvg samples nodes with the global generator.
        grid = virtual_grid()
        result = FedAvg(fraction_train=0.5).start(
            grid, initial_arrays(), num_rounds=8, evaluate_fn=central
        )
        series = [float(m["accuracy"]) for m in result.evaluate_metrics_serverapp.values()]
        assert sorted(result.evaluate_metrics_clientapp) == list(range(1, 9))
        return grid, result.arrays, series

    grid, arrays, accuracies = run()
    assert accuracies[-1] > accuracies[0] + 0.2
    assert grid.clock.now() > 0
    again, same_arrays, _ = run()
    assert accuracy_of(same_arrays) == accuracy_of(arrays)
    assert again.clock.now() == grid.clock.now()
