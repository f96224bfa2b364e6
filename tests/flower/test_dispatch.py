from __future__ import annotations

import math
import random

from fl_server.strategy.dispatch import Fleet, Task


def fleet(*nodes: int) -> Fleet:
    result = Fleet(random.Random(0))
    result.connect(nodes)
    return result


def test_a_node_with_a_task_is_not_idle_until_it_has_finished() -> None:
    nodes = fleet(1, 2)
    task = Task("m", 1, version=0, expires=10.0)
    nodes.start(task)
    assert nodes.idle() == [2]
    assert nodes.pending == ["m"]
    assert nodes.finish("m") == task
    assert nodes.finish("m") is None
    assert nodes.idle() == [1, 2]


def test_back_off_doubles_up_to_a_minute_and_ends_with_an_accepted_update() -> None:
    nodes = fleet(1)
    assert [nodes.back_off(1, 0.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert nodes.trainable(59.0, version=1) == []
    assert nodes.next_change(0.0) == 60.0
    assert nodes.trainable(60.0, version=1) == [1]
    nodes.accepted(1, 0)
    assert nodes.back_off(1, 0.0) == 1


def test_a_contributor_waits_for_the_next_version() -> None:
    nodes = fleet(1, 2)
    nodes.accepted(1, version=4)
    assert nodes.trainable(0.0, version=4) == [2]
    assert nodes.trainable(0.0, version=5) == [1, 2]


def test_tasks_of_nodes_that_left_do_not_count_as_in_flight() -> None:
    nodes = fleet(1, 2)
    nodes.start(Task("m", 1, version=0, expires=10.0))
    nodes.connect([2])
    assert nodes.num_training == 0
    nodes.connect([1, 2])
    assert nodes.num_training == 1
    assert nodes.idle() == [2]


def test_leases_expire() -> None:
    nodes = fleet(1)
    task = Task("m", 1, version=0, expires=10.0)
    nodes.start(task)
    assert nodes.expired(9.0) == []
    assert nodes.next_change(9.0) == 10.0
    assert nodes.expired(10.0) == [task]
    assert nodes.next_change(10.0) == math.inf


def test_the_choice_among_idle_nodes_is_random_but_repeatable() -> None:
    orders = [fleet(*range(20)).choose(0.0, 0, 20) for _ in range(2)]
    assert orders[0] == orders[1] != sorted(orders[0])


def test_a_thousand_failures_in_a_row_still_rest_a_minute() -> None:
    nodes = fleet(1)
    for _ in range(2000):
        rest = nodes.back_off(1, 0.0)
    assert rest == 60


def test_a_retired_node_is_not_asked_again() -> None:
    nodes = fleet(1, 2)
    nodes.retire(1)
    assert nodes.choose(1e9, 0, 2) == [2]
    assert nodes.num_left == 1
