from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from fl_sim.simulation.event_queue import EventQueue
from fl_sim.simulation.events import NOBODY, Event
from fl_sim.simulation.fleet import Clients, Fleet, TaskDraw, Times
from fl_sim.simulation.fleet_builder import slowest_last, speeds
from fl_sim.simulation.idle import IdleClients
from fl_sim.simulation.scheduler import Scheduler
from strategies.selection import POLICIES, Selector, policy_from, selector_for
from tests.support.simulation import fleet


def steady(*seconds: float, **options: object) -> Fleet:
    return Fleet(seconds, (0.0,) * len(seconds), jitter=0.0, **options)


def ready(device: Fleet, client: int, now: float) -> float:
    return float(device.ready([client], now)[0])


def is_online(device: Fleet, client: int, now: float) -> bool:
    return ready(device, client, now) == now


def take(scheduler: Scheduler, event: Event) -> None:
    """Accept what the event delivers."""
    if event.delivered:
        scheduler.answer(event, refused=False)


def events(scheduler: Scheduler, count: int, merge_every: int = 1) -> list[Event]:
    """Run, with a new version after every few deliveries."""
    seen: list[Event] = []
    scheduler.fill()
    while len(seen) < count and (event := scheduler.next()):
        seen.append(event)
        take(scheduler, event)
        if len(seen) % merge_every == 0:
            scheduler.advance(scheduler.version + 1)
        scheduler.fill()
    return seen


def chosen_by(name: str, seed: int = 0) -> Selector | None:
    return selector_for(policy_from(name), seed)


for_every_policy = pytest.mark.parametrize("policy", sorted(POLICIES))


@pytest.mark.parametrize("width", [0.01, 0.5, 100.0])
def test_the_queue_delivers_in_order_whatever_the_width_of_its_buckets(width: float) -> None:
    rng = random.Random(1)
    queue, now, seen = EventQueue(width), 0.0, []
    for number in range(500):
        queue.push(now + rng.expovariate(1.0), number)
        if rng.random() < 0.4:
            ahead = list(queue.ahead())
            event = queue.pop()
            assert event is not None
            assert event == ahead[0]
            seen.append(event)
            now = event[0]
    seen += iter(queue.pop, None)
    assert len(seen) == 500
    assert seen == sorted(seen)


def test_completions_come_in_order_of_time_and_keep_clients_busy() -> None:
    scheduler = Scheduler(fleet(20), 5, seed=1)
    seen = events(scheduler, 200)
    assert [event.time for event in seen] == sorted(event.time for event in seen)
    assert scheduler.busy == 5
    assert len({event.client for event in seen}) > 10


@for_every_policy
def test_claiming_tasks_for_training_does_not_change_the_order_of_events(policy: str) -> None:
    plain, claiming = (
        Scheduler(fleet(20), 8, seed=1, selector=chosen_by(policy)) for _ in range(2)
    )
    expected = events(plain, 100)
    rng, seen = random.Random(2), []
    claiming.fill()
    while len(seen) < 100:
        claiming.claim(rng.randrange(4), math.inf)
        event = claiming.next()
        assert event is not None
        seen.append(event)
        take(claiming, event)
        claiming.advance(claiming.version + 1)
        claiming.fill()
    assert seen == expected


def test_claims_each_task_once_and_nothing_due_too_late() -> None:
    scheduler = Scheduler(steady(1.0, 2.0, 3.0, 9.0), 4)
    scheduler.fill()
    assert scheduler.claim(2, until=5.0) == [(0, 0), (1, 0)]
    assert scheduler.claim(9, until=5.0) == [(2, 0)]
    assert scheduler.claim(9, until=5.0) == []


def test_a_client_rests_until_the_next_version() -> None:
    scheduler = Scheduler(steady(1.0, 10.0), 2)
    scheduler.fill()
    first = scheduler.next()
    assert first == Event(1.0, 0, 0, True)
    assert scheduler.fill() == 0
    scheduler.advance(1)
    assert scheduler.fill() == 1
    assert scheduler.next() == Event(2.0, 0, 1, True)


def test_dead_clients_lose_their_task_and_never_work_again() -> None:
    scheduler = Scheduler(steady(1.0, 1.0, dies_at=(2.5, math.inf)), 2)
    seen = events(scheduler, 12)
    dead = [event for event in seen if event.client == 0]
    assert [event.delivered for event in dead] == [True, True, False]
    assert dead[-1].time == 2.5
    assert sum(event.client == 1 for event in seen) == 9


def test_nothing_happens_any_more_when_everybody_is_dead() -> None:
    scheduler = Scheduler(steady(1.0, 1.0, dies_at=(2.5, 0.5)), 2)
    seen = events(scheduler, 100)
    assert len(seen) == 4
    assert scheduler.next() is None


def test_tasks_break_off_at_the_rate_asked_for() -> None:
    scheduler = Scheduler(fleet(50, dropout=0.3), 20, seed=1)
    seen = events(scheduler, 4000)
    assert sum(not event.delivered for event in seen) / 4000 == pytest.approx(0.3, abs=0.03)


def test_a_task_pauses_while_its_client_is_offline() -> None:
    device = steady(3.0, duty=(0.5,), period=4.0)
    begin = ready(device, 0, 0.0)
    (task,) = device.tasks([0], [0])
    course = device.begin(task, begin)
    assert course is not None
    due, delivers = course
    assert delivers
    online = sum(is_online(device, 0, begin + k / 1000) for k in range(8000))
    assert online == pytest.approx(4000, abs=5)
    worked = sum(is_online(device, 0, begin + k / 1000) for k in range(round((due - begin) * 1000)))
    assert worked == pytest.approx(3000, abs=5)


def test_a_task_begins_exactly_when_its_client_is_online() -> None:
    device = steady(1.0, duty=(0.5,), period=4.0)
    (task,) = device.tasks([0], [0])
    for k in range(80):
        assert (device.begin(task, k / 10) is not None) == is_online(device, 0, k / 10)


def test_a_client_is_ready_only_when_it_can_begin() -> None:
    device = steady(1.0, duty=(0.2,), period=0.7)
    (task,) = device.tasks([0], [0])
    opens = ready(device, 0, 1e6)
    for now in (math.nextafter(opens, 0.0), opens, math.nextafter(opens, math.inf)):
        assert (ready(device, 0, now) <= now) == (device.begin(task, now) is not None)


def test_clients_of_a_large_fleet_do_not_share_their_luck() -> None:
    """16,384 clients have places of their own in the table of draws, and others the same again."""
    devices = fleet(50_000, dropout=0.3)
    numbers = np.arange(64)
    luck = [
        devices.draw(np.full(64, client), numbers)[0] / devices.compute[client]
        for client in (5, 5 + 16_384, 5 + 2 * 16_384)
    ]
    for one, other in itertools.combinations(luck, 2):
        assert abs(np.corrcoef(one[1:], other[1:])[0, 1]) < 0.5


def test_many_tasks_are_drawn_as_one_by_one() -> None:
    devices = fleet(40, dropout=0.3, duty=(0.3,) * 40, dies_at=(5.0,) * 40)
    clients, numbers = list(range(40)), [n % 7 for n in range(40)]
    alone = [devices.tasks([c], [n])[0] for c, n in zip(clients, numbers, strict=True)]
    assert devices.tasks(clients, numbers) == alone


def test_every_idle_client_is_drawn_equally_often_by_the_hand() -> None:
    idle, counts = IdleClients(200, seed=1), [0] * 200
    for _ in range(2000):
        drawn = idle.draw_many(40).tolist()
        assert len(idle) + len(drawn) == 200
        assert len(set(drawn)) == len(drawn)
        for client in drawn:
            counts[client] += 1
        idle.extend(drawn)
    assert sorted(idle.all()) == list(range(200))
    mean = sum(counts) / 200
    assert max(abs(count - mean) for count in counts) < 5 * math.sqrt(mean)


def test_somebody_wakes_the_scheduler_when_everybody_is_offline() -> None:
    devices = next(
        found
        for seed in range(20)
        if (found := steady(0.1, 0.1, duty=(0.2, 0.2), period=10.0, seed=seed))
        and found.ready([0, 1], 0.0).all()
    )
    scheduler = Scheduler(devices, 2)
    assert scheduler.fill() == 0
    first = scheduler.next()
    assert first is not None
    assert first.client == NOBODY
    assert first.time == devices.ready([0, 1], 0.0).min()
    assert scheduler.fill() == 1


def test_who_becomes_idle_while_all_others_are_offline_is_not_overslept() -> None:
    # Both are online until 0.5, and again from 10 and 3 on; what client 1 begins breaks off.
    class Shifts(Fleet):
        def begin(self, task: TaskDraw, now: float, work: float = 1.0) -> tuple[float, bool] | None:
            client = task[0]
            if self.ready([client], now)[0] > now:
                return None
            return (now + 1.0, False) if client else (now + 0.2, True)

        def ready(self, clients: Sequence[int] | Clients, now: float) -> Times:
            opens = {0: 10.0, 1: 3.0}
            return np.array([now if now < 0.5 else max(now, opens[c]) for c in clients])

    scheduler = Scheduler(Shifts((1.0, 1.0), (0.0, 0.0)), 2)
    assert scheduler.fill() == 1
    assert scheduler.next() == Event(0.2, 0, 0, True)
    scheduler.now = 0.6
    scheduler.advance(1)
    scheduler.fill()
    assert scheduler.next() == Event(1.0, 1, 0, False)
    scheduler.fill()
    asleep = scheduler.next()
    assert asleep == Event(3.0, NOBODY, 1, False)
    scheduler.fill()
    assert scheduler.busy == 1


def test_tasks_end_only_while_their_client_is_online() -> None:
    devices = fleet(20, duty=(0.3,) * 20, period=5.0)
    seen = events(Scheduler(devices, 5), 300)
    for event in seen:
        if event.client != NOBODY:
            assert is_online(devices, event.client, event.time - 1e-6)


class InOrder:
    """Always chooses the candidate with the lowest number."""

    def choose(self, candidates: Iterable[int], now: float) -> int:
        return min(candidates)

    def ended(self, client: int, now: float, *, delivered: bool) -> None:
        pass


def test_a_round_replaces_failures_and_leaves_who_is_late_at_work() -> None:
    compute = (1.0, 2.0, 3.0, 50.0, 6.0, 7.0)
    dies = (0.5, *[math.inf] * 5)
    devices = Fleet(compute, (0.0,) * 6, jitter=0.0, dies_at=dies)
    scheduler = Scheduler(devices, 3, rounds=True, selector=InOrder())
    scheduler.fill()
    delivered = []
    while len(delivered) < 2:
        event = scheduler.next()
        assert event is not None
        delivered += [event.client] * event.delivered
        take(scheduler, event)
        scheduler.fill()
        assert scheduler.busy + len(delivered) <= 3
    assert delivered == [1, 2]
    scheduler.advance(1)
    assert scheduler.busy == 1
    # Two have rested, two were idle; the late one takes no place.
    assert scheduler.fill() == 3
    assert scheduler.busy == 4
    late = Event(50.5, 3, 0, True)
    seen = iter(scheduler.next, late)
    assert [event.base_version for event in seen if event is not None] == [1] * 3
    # Its place is not theirs either: this version's are taken by those who delivered.
    assert scheduler.fill() == 0


@pytest.mark.parametrize("law", ["lognormal", "pareto", "uniform"])
def test_speeds_have_a_median_of_one(law: str) -> None:
    draws = sorted(speeds(law, 20001, 0.9, 1))
    assert draws[10000] == pytest.approx(1.0, abs=0.05)
    assert draws[0] > 0
    assert (draws[-1] > 5.0) == (law != "uniform")


def test_the_highest_scores_get_the_slowest_devices() -> None:
    devices = replace(steady(5.0, 1.0, 3.0), duty=(0.5, 0.1, 0.3))
    assert slowest_last(devices, [0.5, 0.5, 0.5]) == devices
    sorted_out = slowest_last(devices, [0.1, 0.9, 0.2])
    assert sorted_out.compute == (1.0, 5.0, 3.0)
    assert sorted_out.duty == (0.1, 0.5, 0.3)


@for_every_policy
def test_the_same_seed_gives_the_same_events(policy: str) -> None:
    one, other, third = (
        events(Scheduler(fleet(30), 9, seed=seed, selector=chosen_by(policy, seed)), 300)
        for seed in (1, 1, 2)
    )
    assert one == other
    assert one != third


@for_every_policy
def test_everybody_is_asked_and_places_are_kept_filled_under_failures(policy: str) -> None:
    scheduler = Scheduler(fleet(20, dropout=0.2), 5, selector=chosen_by(policy))
    seen = events(scheduler, 400, merge_every=3)
    assert scheduler.busy == 5
    assert len({event.client for event in seen}) == 20
    assert {event.delivered for event in seen} == {True, False}


def test_who_was_late_may_be_chosen_again() -> None:
    scheduler = Scheduler(steady(1.0, 5.0), 2, rounds=True, selector=chosen_by("auction"))
    scheduler.fill()
    expected = [Event(1.0, 0, 0, True), Event(2.0, 0, 1, True), Event(5.0, 1, 0, True)]
    for version, event in enumerate(expected):
        assert scheduler.next() == event
        take(scheduler, event)
        if version == 0:
            scheduler.advance(1)
            assert scheduler.fill() == 1
    assert scheduler.fill() == 1
    assert scheduler.next() == Event(10.0, 1, 1, True)


def test_a_round_replaces_who_was_refused_and_lets_them_rest() -> None:
    scheduler = Scheduler(steady(1.0, 2.0, 3.0), 2, rounds=True, selector=InOrder())
    scheduler.fill()
    refused = scheduler.next()
    assert refused == Event(1.0, 0, 0, True)
    scheduler.answer(refused, refused=True)
    assert scheduler.fill() == 1
    accepted = scheduler.next()
    assert accepted == Event(2.0, 1, 0, True)
    take(scheduler, accepted)
    assert scheduler.fill() == 0
    assert scheduler.next() == Event(4.0, 2, 0, True)
    scheduler.advance(1)
    assert scheduler.fill() == 2


def test_a_refused_update_is_not_delivered_as_far_as_the_selector_knows() -> None:
    told: list[tuple[int, bool]] = []

    class Listening(InOrder):
        def ended(self, client: int, now: float, *, delivered: bool) -> None:
            told.append((client, delivered))

    devices = steady(1.0, 2.0, 3.0, dies_at=(math.inf, math.inf, 2.5))
    scheduler = Scheduler(devices, 3, selector=Listening())
    scheduler.fill()
    for refused in (True, False):
        event = scheduler.next()
        assert event is not None
        scheduler.answer(event, refused=refused)
    assert scheduler.next() == Event(2.5, 2, 0, False)
    assert told == [(0, False), (1, True), (2, False)]
