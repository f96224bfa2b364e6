from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fl_server.strategy.pacing import Pacer
from fl_sim.clock import VirtualClock
from fl_sim.grid import FIRST_NODE_ID, VirtualGrid
from tests.support.federation import client_app


class PolledClock:
    """A clock without alarm, as on real time; sleeping is noted."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(round(seconds, 3))
        self.time += seconds


def pending(grid: VirtualGrid) -> list[str]:
    record = RecordDict({"config": ConfigRecord({})})
    return grid.push_messages([Message(record, FIRST_NODE_ID, MessageType.TRAIN)])


def test_on_real_time_polls_ever_more_slowly_until_something_comes() -> None:
    grid, clock = VirtualGrid(client_app(), 1), PolledClock()
    ids = pending(grid)
    grid.clock.set_alarm(0.5)
    pacer = Pacer(grid, clock)
    for _ in range(6):
        assert pacer.receive(ids, wake=100.0) == []
    assert clock.sleeps == [0.02, 0.04, 0.08, 0.16, 0.25, 0.25]
    grid.clock.set_alarm(2.0)
    assert len(pacer.receive(ids, wake=100.0)) == 1
    pacer.receive([], wake=100.0)
    assert clock.sleeps[-1] == 0.02


def test_on_real_time_never_sleeps_past_the_next_thing_to_do() -> None:
    clock = PolledClock()
    Pacer(VirtualGrid(client_app(), 1), clock).receive([], wake=0.005)
    assert clock.sleeps == [0.005]


@pytest.mark.parametrize(("wake", "expected"), [(0.3, 0.3), (9.0, 1.0)])
def test_on_virtual_time_stops_at_the_reply_or_the_next_thing_to_do(
    wake: float, expected: float
) -> None:
    grid = VirtualGrid(client_app(), 1)
    Pacer(grid, grid.clock).receive(pending(grid), wake)
    assert grid.clock.now() == expected


def test_on_virtual_time_jumps_when_nothing_is_under_way() -> None:
    grid = VirtualGrid(client_app(), 1)
    assert isinstance(grid.clock, VirtualClock)
    Pacer(grid, grid.clock).receive([], wake=42.0)
    assert grid.clock.now() == 42.0
