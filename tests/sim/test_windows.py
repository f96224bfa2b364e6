"""Windows of events worked out at once change nothing but speed."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.simulation import scheduler as event_by_event
from fl_sim.simulation.array_queue import ArrayQueue
from fl_sim.simulation.event_queue import EventQueue
from fl_sim.simulation.events import NOBODY
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import deaths
from fl_sim.simulation.scheduler import Scheduler
from fl_sim.simulation.windows import WindowedScheduler, scheduler_for
from tests.support.simulation import fleet


@pytest.fixture(autouse=True)
def large_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fleets of a few dozen clients be dealt, and windows opened, as large ones are."""
    monkeypatch.setattr(event_by_event, "_MANY", 3)
    monkeypatch.setattr(event_by_event, "_HANDS", 3)


def devices(rng: random.Random, clients: int) -> Fleet:
    """A fleet with a random choice of features; without jitter, many events coincide."""
    options: dict[str, Any] = {
        "seed": rng.randrange(5),
        "jitter": rng.choice([0.0, 0.3]),
        "dropout": rng.choice([0.0, 0.05, 0.3]),
    }
    if rng.random() < 0.6:
        options["duty"] = tuple(rng.choice([0.2, 0.7, 1.0]) for _ in range(clients))
        options["period"] = rng.choice([0.7, 10.0])
    if rng.random() < 0.6:
        options["dies_at"] = deaths(clients, 0.5, 20.0, rng.randrange(5))
    if rng.random() < 0.5:
        return fleet(clients, **options)
    return Fleet(tuple(rng.choice([1.0, 2.0]) for _ in range(clients)), (0.1,) * clients, **options)


def history(scheduler: Scheduler, seed: int, steps: int = 400) -> list[object]:
    """All that a caller sees of a scheduler that is asked for things in a random order."""
    rng, seen, claimed = random.Random(seed), list[object](), set[int]()
    merge, claim, wake, skip = (rng.random() * most for most in (0.5, 0.2, 0.02, 0.1))
    seen.append(scheduler.fill())
    for _ in range(steps):
        if rng.random() < claim:
            count = rng.randrange(6)
            taken = scheduler.claim(count, scheduler.now + rng.choice([0.5, math.inf]))
            assert len(taken) <= count
            assert claimed.isdisjoint(client for client, _ in taken)
            claimed.update(client for client, _ in taken)
        event = scheduler.next()
        if event is None:
            break
        claimed.discard(event.client)
        seen.append(event)
        if rng.random() < wake:
            scheduler.wake(scheduler.now + rng.random())
        for _ in range(2):
            if rng.random() < merge:
                scheduler.advance(scheduler.version + 1)
            if rng.random() > skip:
                seen.append(scheduler.fill())
        seen.append(scheduler.busy)
    return seen


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), clients=st.integers(8, 80))
def test_events_are_those_worked_out_one_by_one(seed: int, clients: int) -> None:
    rng = random.Random(seed)
    fleet = devices(rng, clients)
    in_flight = rng.randrange(2, clients)
    one_by_one = history(Scheduler(fleet, in_flight, seed), seed)
    assert history(WindowedScheduler(fleet, in_flight, seed), seed) == one_by_one


def test_events_of_a_large_fleet_are_those_worked_out_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    clients = 14_000
    devices = fleet(
        clients,
        dropout=0.05,
        duty=(0.7,) * clients,
        period=10.0,
        dies_at=deaths(clients, 0.2, 10.0, 1),
    )
    windowed = scheduler_for(devices, 2500, 1)
    assert isinstance(windowed, WindowedScheduler)
    assert history(windowed, 3, 20_000) == history(Scheduler(devices, 2500, 1), 3, 20_000)


def test_whatever_chooses_or_waits_is_worked_out_one_by_one() -> None:
    devices = fleet(14_000)
    assert type(scheduler_for(devices, 2500)) is WindowedScheduler
    assert type(scheduler_for(devices, 2500, rounds=True)) is Scheduler
    assert type(scheduler_for(devices, 2500, work=lambda client, now: 0.5)) is Scheduler


@pytest.mark.parametrize(("clients", "in_flight"), [(14_000, 1000), (3000, 2500)])
def test_short_windows_are_worked_out_one_by_one(clients: int, in_flight: int) -> None:
    assert type(scheduler_for(fleet(clients), in_flight)) is Scheduler


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_queue_in_arrays_delivers_what_a_queue_in_buckets_does(seed: int) -> None:
    rng = random.Random(seed)
    arrays, buckets = ArrayQueue(), EventQueue(0.5)
    now = 0.0
    for number in range(rng.randrange(NOBODY, 500)):
        due = now + rng.choice([rng.expovariate(1.0), rng.randrange(4)])
        arrays.push(due, number)
        buckets.push(due, number)
        if rng.random() < 0.4:
            assert list(arrays.ahead()) == list(buckets.ahead())
            event = arrays.pop()
            assert event is not None
            assert event == buckets.pop()
            now = event[0]
    assert list(iter(arrays.pop, None)) == list(iter(buckets.pop, None))
