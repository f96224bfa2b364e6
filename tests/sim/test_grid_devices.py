"""The devices of a simulation under a grid: what a Flower server sees of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from flwr.app import Message, MessageType, RecordDict

from fl_sim.devices import EVALUATE_SHARE
from fl_sim.grid import FIRST_NODE_ID, Presence, VirtualGrid
from fl_sim.simulation.churn import Sessions
from fl_sim.simulation.config import DevicesSection
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import fleet_from
from fl_sim.simulation.intermittent import IntermittentFleet
from tests.support.federation import echo_app
from tests.support.simulation import windows

NODE = FIRST_NODE_ID
ALL = DevicesSection(
    clients=6,
    speed="pareto",
    bandwidth_mbps=5.0,
    duty_cycle=0.6,
    period=3.0,
    dropout=0.3,
    death_rate=0.5,
)


def task(node: int, kind: str = MessageType.TRAIN, ttl: float = 1e9) -> Message:
    return Message(RecordDict(), node, kind, ttl=ttl)


def part_time(seconds: float) -> tuple[Fleet, float]:
    """A device that is there for 6 s and away for 4; when it comes."""
    fleet = Fleet((seconds,), (0.0,), (0.6,), period=10.0, jitter=0.0)
    away = next(now for now in range(10) if fleet.ready([0], now) > now)
    return fleet, fleet.ready([0], away).item()


def part_time_grid(seconds: float) -> tuple[VirtualGrid, Callable[[], float]]:
    """A node that has just come, and the time since then."""
    fleet, came = part_time(seconds)
    grid = VirtualGrid(echo_app(), 1, fleet, start=came)
    return grid, lambda: round(grid.clock.now() - came, 9)


CHURN = ALL.model_copy(update={"session": 8.0, "absence": 2.0, "join_rate": 0.5})


@pytest.mark.parametrize("section", [ALL, CHURN], ids=["all there", "churn"])
def test_every_task_of_every_client_ends_when_and_as_in_the_fast_path(
    section: DevicesSection,
) -> None:
    fleet = fleet_from(section, model_bytes=100_000, virtual_time=40.0, seed=3)
    fates = set()
    for client in range(len(fleet)):
        grid, node = VirtualGrid(echo_app(), len(fleet), fleet), FIRST_NODE_ID + client
        for number in range(40):
            begin = fleet.ready([client], grid.clock.now()).item()
            if begin == math.inf:
                assert node not in grid.get_node_ids()
                break
            grid.clock.advance_to(begin)
            expected = fleet.begin(fleet.tasks([client], [number])[0], begin)
            (reply,) = grid.send_and_receive([task(node)])
            assert (grid.clock.now(), not reply.has_error()) == expected
            fates.add(reply.error.reason if reply.has_error() else "completes")
    assert fates == {"completes", "The node dropped out.", "The node has left."}


def test_an_offline_node_is_not_listed_and_takes_no_messages() -> None:
    grid, _ = part_time_grid(1.0)
    assert grid.get_node_ids() == [NODE]
    grid.clock.sleep(7.0)
    assert grid.get_node_ids() == [] and grid.push_messages([task(NODE)]) == [""]
    grid.clock.sleep(4.0)
    assert grid.get_node_ids() == [NODE]


def test_a_task_pauses_while_its_node_is_offline() -> None:
    grid, elapsed = part_time_grid(4.0)
    grid.clock.sleep(3.0)
    (reply,) = grid.send_and_receive([task(NODE)])
    assert not reply.has_error() and elapsed() == 11.0


def test_a_second_message_of_a_node_pauses_too() -> None:
    grid, elapsed = part_time_grid(4.0)
    replies = grid.send_and_receive([task(NODE), task(NODE)])
    assert len(replies) == 2 and elapsed() == 12.0


def test_a_task_for_a_node_that_is_away_begins_when_it_is_back() -> None:
    fleet, came = part_time(4.0)
    assert fleet.course(0, 0, came - 2.0) == fleet.course(0, 0, came)


def test_a_paused_task_is_given_up_when_its_time_to_live_has_passed() -> None:
    grid, elapsed = part_time_grid(4.0)
    grid.clock.sleep(3.0)
    (reply,) = grid.send_and_receive([task(NODE, ttl=5.0)])
    assert reply.has_error() and elapsed() == 8.0


def test_a_node_that_dies_takes_all_its_messages_along() -> None:
    fleet = Fleet((4.0,), (0.0,), dies_at=(6.0,), jitter=0.0)
    grid = VirtualGrid(echo_app(), 1, fleet)
    one, two, three = grid.send_and_receive([task(NODE), task(NODE), task(NODE)])
    assert not one.has_error()
    assert two.error.reason == three.error.reason == "The node has left."
    assert grid.clock.now() == 6.0 and grid.get_node_ids() == []


def leaving_grid() -> tuple[VirtualGrid, IntermittentFleet]:
    """A node with tasks of 2 s that joins at 1 s, and leaves before it has done the second one."""
    for seed in range(100):
        sessions = Sessions([1.0], 3.0, 3.0, seed)
        _, closes = sessions.at(0, 1.0)
        if 3.0 < closes < 5.0:
            break
    fleet = IntermittentFleet((2.0,), (0.0,), jitter=0.0, sessions=sessions)
    return VirtualGrid(echo_app(), 1, fleet), fleet


def test_a_node_that_leaves_loses_its_tasks_and_is_listed_when_it_is_back() -> None:
    grid, fleet = leaving_grid()
    assert grid.get_node_ids() == [] and grid.push_messages([task(NODE)]) == [""]
    grid.clock.advance_to(1.0)
    one, two, three = grid.send_and_receive([task(NODE) for _ in range(3)])
    assert not one.has_error()
    assert two.error.reason == three.error.reason == "The node has left."
    left = grid.clock.now()
    assert 3.0 < left < 5.0 and grid.get_node_ids() == []
    back = fleet.ready([0], left).item()
    grid.clock.advance_to(back)
    assert grid.get_node_ids() == [NODE]
    grid.send_and_receive([task(NODE)])
    assert grid.clock.now() == fleet.course(0, 3, back).end


def test_a_node_with_windows_pauses_between_them_and_leaves_with_the_last() -> None:
    shifts = windows([(1.0, 3.0), (6.0, 8.0)])
    grid = VirtualGrid(echo_app(), 1, IntermittentFleet((3.0,), (0.0,), jitter=0.0, windows=shifts))
    assert grid.get_node_ids() == []
    grid.clock.advance_to(1.0)
    one, two = grid.send_and_receive([task(NODE), task(NODE)])
    assert not one.has_error() and two.error.reason == "The node has left."
    assert grid.clock.now() == 8.0 and grid.get_node_ids() == []


def test_clients_of_a_fleet_may_join_later() -> None:
    fleet = Fleet((1.0, 1.0), (0.0, 0.0))
    grid = VirtualGrid(echo_app(), 2, fleet, presence={0: Presence(joins=2.0)})
    assert grid.get_node_ids() == [NODE + 1]
    grid.clock.advance_to(2.0)
    assert grid.get_node_ids() == [NODE, NODE + 1]


def test_an_evaluation_takes_a_share_of_training_and_the_download_alone() -> None:
    grid = VirtualGrid(echo_app(), 1, Fleet((8.0,), (3.0,), jitter=0.0))
    grid.send_and_receive([task(NODE, MessageType.EVALUATE)])
    assert grid.clock.now() == 8.0 * EVALUATE_SHARE + 1.5


def test_evaluations_change_no_training_time() -> None:
    fleet = fleet_from(ALL, model_bytes=0, virtual_time=40.0, seed=3)
    fleet = replace(fleet, duty=None, dies_at=None, dropout=0.0)

    def spans(evaluates: bool) -> list[float]:
        grid, seen = VirtualGrid(echo_app(), len(fleet), fleet), []
        for _ in range(5):
            if evaluates:
                grid.send_and_receive([task(NODE, MessageType.EVALUATE)])
            begin = grid.clock.now()
            grid.send_and_receive([task(NODE)])
            seen.append(grid.clock.now() - begin)
        return seen

    assert spans(True) == pytest.approx(spans(False))
