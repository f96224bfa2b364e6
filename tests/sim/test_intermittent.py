"""Clients that are there by windows, or join, leave and come back."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.devices import Course
from fl_sim.failures import Fate
from fl_sim.simulation.availability import Windows
from fl_sim.simulation.churn import Sessions, late_joins, stationary
from fl_sim.simulation.events import NOBODY, Event
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import deaths
from fl_sim.simulation.intermittent import IntermittentFleet
from fl_sim.simulation.scheduler import Scheduler
from fl_sim.simulation.waiting import WaitingScheduler
from fl_sim.simulation.windows import scheduler_for
from tests.sim.test_scheduler import InOrder, events
from tests.support.simulation import windows


class Given(Sessions):
    """Sessions as they are written down."""

    def __init__(self, *clients: list[tuple[float, float]]) -> None:
        super().__init__([client[0][0] for client in clients], 1.0, 1.0)
        self._given = clients

    def _find(self, client: int, now: float) -> None:
        since = -math.inf
        for number, (opens, closes) in enumerate(self._given[client]):
            if closes > now:
                self._take(client, number, since, opens, closes)
                return
            since = closes
        self._take(client, 0, since, math.inf, math.inf)


def steady(*seconds: float, **options: object) -> IntermittentFleet:
    return IntermittentFleet(seconds, (0.0,) * len(seconds), jitter=0.0, **options)


DAYS = [(2.0, 5.0), (9.0, 10.0), (12.0, 20.0)]


@pytest.mark.parametrize(
    ("seconds", "start", "end"),
    [
        (2.0, 2.0, 4.0),
        (3.0, 2.0, 5.0),
        (3.5, 2.0, 9.5),
        (4.0, 2.0, 10.0),
        (5.0, 2.0, 13.0),
        # Begun before it joins, and while it is offline.
        (2.0, 0.0, 4.0),
        (3.0, 6.0, 14.0),
        (8.0, 12.0, 20.0),
    ],
)
def test_a_task_pauses_between_windows(seconds: float, start: float, end: float) -> None:
    fleet = steady(seconds, windows=windows(DAYS))
    assert fleet.course(0, 0, start) == Course(end, Fate.COMPLETES)


def test_a_task_that_outlasts_the_last_window_is_lost_as_that_closes() -> None:
    fleet = steady(9.0, windows=windows(DAYS))
    assert fleet.course(0, 0, 9.5) == Course(20.0, Fate.LEAVES)
    assert fleet.ready([0], 19.9) == 19.9
    assert fleet.ready([0], 20.0) == math.inf


@pytest.mark.parametrize(
    ("seconds", "end"),
    [
        (1.0, 3.0),
        (3.0, 5.0),
        (3.5, 9.5),
        (4.0, 10.0),
        (4.5, 22.5),
        (9.0, 43.0),
        (4.0e6, 2e7 - 10.0),
    ],
)
def test_windows_come_again_after_a_period(seconds: float, end: float) -> None:
    fleet = steady(seconds, windows=windows([(2.0, 5.0), (9.0, 10.0)], period=20.0))
    assert fleet.course(0, 0, 2.0) == Course(end, Fate.COMPLETES)
    later = fleet.course(0, 0, 2.0 + 20e6)
    assert later == Course(end + 20e6, Fate.COMPLETES)


def test_windows_that_touch_are_no_pause() -> None:
    fleet = steady(15.0, windows=windows([(0.0, 4.0), (4.0, 10.0)], period=10.0))
    assert fleet.course(0, 0, 3.0) == Course(18.0, Fate.COMPLETES)


def test_leaving_loses_the_task_and_the_next_one_begins_when_the_client_is_back() -> None:
    fleet = steady(3.0, sessions=Given([(1.0, 5.0), (7.0, 20.0)]))
    assert fleet.course(0, 0, 0.0) == Course(4.0, Fate.COMPLETES)
    assert fleet.course(0, 1, 4.0) == Course(5.0, Fate.LEAVES)
    assert fleet.ready([0], 5.0) == 7.0
    assert fleet.course(0, 2, 5.0) == Course(10.0, Fate.COMPLETES)


def test_a_client_can_pause_and_leave() -> None:
    sessions = Given([(0.0, 9.5), (10.0, 100.0)])
    fleet = steady(4.0, windows=windows(DAYS), sessions=sessions)
    assert fleet.course(0, 0, 2.0) == Course(9.5, Fate.LEAVES)
    assert fleet.course(0, 1, 9.5) == Course(16.0, Fate.COMPLETES)


def test_what_breaks_off_before_the_client_leaves_has_dropped_out() -> None:
    fleet = steady(4.0, sessions=Given([(0.0, 3.0), (5.0, 100.0)]), dropout=0.9, seed=1)
    breaks = [fleet._task(0, number)[3] for number in range(20)]
    for number, share in enumerate(breaks):
        due = 1.0 + 4.0 * min(share, 1.0)
        if due > 3.0:
            expected = Course(3.0, Fate.LEAVES)
        else:
            expected = Course(due, Fate.DROPS_OUT if share < 1.0 else Fate.COMPLETES)
        assert fleet.course(0, number, 1.0) == expected
    assert min(breaks) < 0.5 < max(breaks)


def test_a_lost_task_is_noticed_and_the_client_gets_another_when_it_is_back() -> None:
    fleet = steady(2.0, 50.0, sessions=Given([(0.0, 3.0), (6.0, 9.0)], [(1.0, 99.0)]))
    seen = [event for event in events(scheduler_for(fleet, 2), 9) if event.client != NOBODY]
    assert seen == [
        Event(2.0, 0, 0, True),
        Event(3.0, 0, 2, False),
        Event(8.0, 0, 4, True),
        Event(9.0, 0, 5, False),
        Event(51.0, 1, 1, True),
        Event(99.0, 1, 7, False),
    ]


def random_fleet(rng: random.Random, clients: int) -> IntermittentFleet:
    """A fleet with windows, a duty cycle or neither, and with churn, late joins or neither."""
    seed, options = rng.randrange(5), {}
    if rng.random() < 0.4:
        options["dies_at"] = deaths(clients, 0.5, 60.0, seed)
    kind = rng.randrange(4)
    if kind == 0:
        options |= {"duty": tuple(rng.choice([0.2, 0.7, 1.0]) for _ in range(clients))}
        options["period"] = rng.choice([0.7, 10.0])
    elif kind == 1:
        marks = [sorted(rng.choice([rng.random(), rng.random() * 40]) for _ in range(8))] * clients
        pairs = [list(pairwise(some))[rng.randrange(2) :: 2] for some in marks]
        options["windows"] = windows(*pairs, period=rng.choice([math.inf, 40.0, 50.0]))
    session, absence = rng.choice([0.3, 5.0]), rng.choice([0.3, 5.0])
    if kind > 1 or rng.random() < 0.5:
        joins = stationary(clients, session, absence, seed)
        joins = late_joins(joins, rng.choice([0.0, 0.5]), 30.0, seed)
        options["sessions"] = Sessions(joins, session, absence, seed)
    return IntermittentFleet(
        tuple(rng.choice([0.5, 1.0, 3.0]) for _ in range(clients)),
        (0.1,) * clients,
        jitter=rng.choice([0.0, 0.3]),
        dropout=rng.choice([0.0, 0.2]),
        seed=seed,
        **options,
    )


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_client_can_begin_from_when_it_is_ready_and_no_sooner(seed: int) -> None:
    rng = random.Random(seed)
    fleet = random_fleet(rng, 3)
    for _ in range(30):
        client, now = rng.randrange(3), rng.random() * 80
        (task,) = fleet.tasks([client], [rng.randrange(9)])
        ready = fleet.ready([client], now).item()
        assert fleet.ready_at(client, now) == ready
        for time in (now, (now + min(ready, 90.0)) / 2, math.nextafter(ready, 0.0)):
            if now <= time < ready:
                begun = fleet.begin(task, time)
                assert begun is None or begun == (math.inf, False)
        if ready < math.inf:
            assert fleet.ready([client], ready) == ready
            begun = fleet.begin(task, ready)
            assert begun is not None and ready <= begun[0] < math.inf
            end, fate = fleet.course(client, 4, now)
            assert end >= ready and fate is not Fate.GOES_SILENT
            assert (end, fate) == fleet.course(client, 4, ready)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_work_on_a_task_is_done_while_its_client_is_there(seed: int) -> None:
    rng = random.Random(seed)
    fleet = random_fleet(rng, 1)
    start = fleet.ready([0], rng.random() * 40).item()
    if start == math.inf:
        return
    _, compute, transfer, broken, *_ = fleet._task(0, 7)
    end, fate = fleet.course(0, 7, start)
    worked, time = 0.0, start
    while time < end:
        opens, closes = fleet._there.at(0, time)
        worked += max(0.0, min(closes, end) - max(opens, time))
        time = closes
    needed = (compute + transfer) * min(broken, 1.0)
    if fate is Fate.LEAVES:
        assert worked < needed and end == fleet._leaves_at(0, start)
    else:
        assert worked == pytest.approx(needed)
        assert (fate is Fate.COMPLETES) == (broken > 1.0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nothing_depends_on_the_order_of_asking(seed: int) -> None:
    times = [(client, k * 0.37) for client in range(4) for k in range(120)]
    answers = []
    for order in (times, times[::-1], random.Random(seed).sample(times, len(times))):
        fleet = random_fleet(random.Random(seed), 4)
        answers.append({(c, t): (fleet.course(c, 3, t), *fleet.ready([c], t)) for c, t in order})
    assert answers[0] == answers[1] == answers[2]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), clients=st.integers(2, 40), rounds=st.booleans())
def test_putting_aside_who_is_away_changes_no_event(seed: int, clients: int, rounds: bool) -> None:
    def seen(kind: type[Scheduler], fleet: Fleet) -> list[Event]:
        # Where nobody is left out, nothing depends on the draws.
        scheduler = kind(fleet, clients, seed, rounds=rounds)
        ended, merged = [], 0
        scheduler.fill()
        while len(ended) < 300 and (event := scheduler.next()) and event.time < 60.0:
            if event.client != NOBODY:
                ended.append(event)
                merged += event.delivered
                if event.delivered and merged % 3 == 0:
                    scheduler.advance(scheduler.version + 1)
            scheduler.fill()
        return ended

    fleet = random_fleet(random.Random(seed), clients)
    assert seen(WaitingScheduler, fleet) == seen(Scheduler, fleet)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), selected=st.booleans())
def test_no_place_stays_empty_while_somebody_could_work(seed: int, selected: bool) -> None:
    fleet = random_fleet(random.Random(seed), 30)
    scheduler = WaitingScheduler(fleet, 8, seed, selector=InOrder() if selected else None)
    working: set[int] = set()
    begin, begun = scheduler._begin, list[int]()

    def observed(task: tuple[int, ...], now: float, work: float) -> object:
        course = begin(task, now, work)
        if course is not None and course[0] < math.inf:
            begun.append(task[0])
        return course

    scheduler._begin = observed
    for _ in range(200):
        scheduler.fill()
        assert working.isdisjoint(begun)
        working |= set(begun)
        begun.clear()
        assert len(working) == scheduler.busy
        idle = [c for c in range(30) if c not in working]
        could = np.count_nonzero(fleet.ready(idle, scheduler.now) <= scheduler.now)
        assert scheduler.busy == 8 or not could
        event = scheduler.next()
        if event is None:
            assert not (fleet.ready(range(30), scheduler.now) < math.inf).any()
            break
        working.discard(event.client)
        scheduler.advance(scheduler.version + 1)


def test_large_hands_hold_nobody_who_is_away() -> None:
    clients = 4000
    sessions = Sessions(stationary(clients, 5.0, 5.0, 1), 5.0, 5.0, 1)
    fleet = steady(*[1.0] * clients, sessions=sessions)
    scheduler = scheduler_for(fleet, 1000, 1)
    assert isinstance(scheduler, WaitingScheduler)
    seen = [event for event in events(scheduler, 20_000) if event.client != NOBODY]
    assert scheduler.busy == 1000
    assert len({event.client for event in seen}) > 0.9 * clients
    # Of tasks that take 1, a share 1 - exp(-1/5) is lost.
    lost = np.mean([not event.delivered for event in seen])
    assert lost == pytest.approx(1 - math.exp(-0.2), abs=0.01)


def test_churn_is_stationary_from_the_start() -> None:
    clients = 20_000
    sessions = Sessions(stationary(clients, 6.0, 2.0, 1), 6.0, 2.0, 1)
    fleet = steady(*[1.0] * clients, sessions=sessions)
    for now in (0.0, 1.0, 5.0, 40.0):
        there = np.mean(fleet.ready(range(clients), now) == now)
        assert there == pytest.approx(0.75, abs=0.015)
    assert fleet.lifetime(40.0) == pytest.approx(0.75 * 40.0 * clients, rel=0.01)


def test_late_clients_join_evenly_over_the_run() -> None:
    joins = late_joins(np.zeros(1000), 0.4, 20.0, 1)
    fleet = steady(*[1.0] * 1000, sessions=Sessions(joins))
    there = [np.count_nonzero(fleet.ready(range(1000), now) == now) for now in (0.0, 10.0, 20.0)]
    assert there == [600, pytest.approx(800, abs=30), 1000]
    assert fleet.course(0, 0, 1e6) == Course(1e6 + 1.0, Fate.COMPLETES)


def test_the_clients_time_is_from_joining_to_death_without_absences() -> None:
    shifts = windows([(2.0, 5.0), (9.0, 10.0)], [(0.0, 1.0), (3.0, 40.0)])
    assert steady(1.0, 1.0, windows=shifts).lifetime(20.0) == 8.0 + 20.0
    assert steady(1.0, 1.0, windows=shifts, dies_at=(4.0, 6.0)).lifetime(20.0) == 2.0 + 6.0
    repeated = windows([(2.0, 5.0), (9.0, 10.0)], period=12.0)
    assert steady(1.0, windows=repeated).lifetime(20.0) == 18.0
    sessions = Sessions([1.0, 30.0])
    assert steady(1.0, 1.0, sessions=sessions, dies_at=(15.0, 99.0)).lifetime(20.0) == 14.0


def test_time_in_sessions_is_that_of_the_intervals() -> None:
    sessions = Sessions(stationary(5, 3.0, 1.0, 2), 3.0, 1.0, 2)
    expected = 0.0
    for client in range(5):
        time = 0.0
        while time < 50.0:
            opens, closes = sessions.at(client, time)
            expected += max(0.0, min(closes, 50.0) - max(opens, 4.0))
            time = closes
    assert sessions.time_within(np.full(5, 4.0), np.full(5, 50.0)) == pytest.approx(expected)


def test_memory_does_not_grow_with_the_sessions_gone_by() -> None:
    sessions = Sessions([0.0], 0.01, 0.01)
    sessions.at(0, 100.0)
    assert all(
        len(value) <= 1 << 14 for value in vars(sessions).values() if hasattr(value, "__len__")
    )


def test_clients_come_with_a_window_that_opens_before_the_end_and_their_death() -> None:
    shifts = windows([(0.0, 5.0)], [(9.0, 12.0)], [(10.0, 20.0)], [(4.0, 6.0)])
    dies_at = (math.inf, math.inf, math.inf, 3.0)
    assert steady(1.0, 1.0, 1.0, 1.0, windows=shifts, dies_at=dies_at).coming(10.0) == 2


def test_late_windows_beside_short_sessions_are_found_at_once_and_exactly() -> None:
    week = 604_800.0
    step_by_step, at_once = (Sessions([0.0, 7.0], 0.5, 0.3, seed=1) for _ in range(2))
    for client in (0, 1):
        time = 0.0
        while time <= week / 20:
            opens, closes = step_by_step.at(client, time)
            time = closes
        assert at_once.at(client, opens) == (opens, closes)
        assert at_once.at(client, 3.0) == Sessions([0.0, 7.0], 0.5, 0.3, seed=1).at(client, 3.0)
    # as many steps would take minutes
    far = Sessions([0.0], 0.01, 0.01).at(0, 1e9)
    assert far[1] > 1e9 and far[1] - far[0] < 1.0


def test_a_client_without_windows_keeps_its_duty_cycle_beside_churn() -> None:
    plain = Fleet((1.0,) * 9, (0.0,) * 9, (0.3,) * 9, period=7.0, jitter=0.0, seed=4)
    fleet = steady(*[1.0] * 9, duty=(0.3,) * 9, period=7.0, seed=4, sessions=Sessions([0.0] * 9))
    for now in np.arange(0.0, 30.0, 0.83):
        np.testing.assert_allclose(fleet.ready(range(9), now), plain.ready(range(9), now))
    ends = [[one.course(client, 0, 3.3).end for client in range(9)] for one in (fleet, plain)]
    assert ends[0] == pytest.approx(ends[1])


def test_windows_are_kept_by_client() -> None:
    kept = Windows([1, 2], [0.0, 1.0, 5.0], [9.0, 2.0, 6.0])
    assert kept.joins().tolist() == [0.0, 1.0]
    assert kept.leaves().tolist() == [9.0, 6.0]
