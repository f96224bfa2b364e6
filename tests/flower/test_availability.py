"""Nodes that fail, come late, leave or stay silent."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fl_server.strategy import AsyncWA, FedBuff, NoProgress
from fl_sim.devices import Devices
from fl_sim.failures import Failures
from fl_sim.grid import FIRST_NODE_ID, Presence, VirtualGrid
from tests.support.federation import Recorder, central, client_app, partition, train, virtual_grid


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


@pytest.mark.parametrize("reason", [None, "", " \n"])
def test_an_error_without_a_reason_does_not_stop_the_run(reason: str | None) -> None:
    def fail(message: Message, context: Context, call_next: object) -> Message:
        if partition(context) == 0:
            return Message(Error(code=7, reason=reason), reply_to=message)
        return call_next(message, context)

    recorder = Recorder()
    strategy = AsyncWA(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, VirtualGrid(client_app(mods=[fail]), 6), 10)
    failed = {(e.client, e.code) for e in recorder.updates if not e.accepted}
    assert failed == {(str(FIRST_NODE_ID), "CLIENT_FAILED")}


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


def test_silent_nodes_are_asked_again_after_their_lease() -> None:
    recorder = Recorder()
    grid = virtual_grid(8, failures=Failures(silent=0.1, seed=2))
    strategy = AsyncWA(fraction_evaluate=0.0, callbacks=[recorder])
    train(strategy, grid, 100, timeout=10.0)
    lost = [e for e in recorder.updates if e.code == "CLIENT_FAILED"]
    assert lost
    again = [e for e in recorder.updates if e.accepted and e.client == lost[0].client]
    assert max(e.time for e in again) > lost[0].time
