"""What tasks tell about a client."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import BadOption
from strategies.selection import TaskHistory


def task(history, client, begin, end, *, delivered=True, **report):
    history.begin(client, begin)
    history.end(client, end, delivered=delivered, **report)


def row(history, client, now=100.0):
    known = history.estimates([client], now)
    return {
        "untried": bool(known.untried[0]),
        "duration": float(known.duration[0]),
        "reliability": float(known.reliability[0]),
        "utilisation": float(known.utilisation[0]),
    }


def test_a_client_never_heard_of_is_untried_reliable_idle_and_average():
    history = TaskHistory()
    task(history, 1, 0.0, 4.0)
    assert row(history, 9) == {
        "untried": True,
        "duration": 1.0,
        "reliability": 1.0,
        "utilisation": 0.0,
    }


def test_a_client_at_its_first_task_is_no_longer_untried():
    history = TaskHistory()
    history.begin(1, 0.0)
    assert not row(history, 1)["untried"]


def test_duration_is_a_moving_average_relative_to_the_mean_of_the_clients():
    history = TaskHistory(smoothing=0.25)
    task(history, 1, 0.0, 2.0)
    task(history, 1, 10.0, 16.0)
    task(history, 2, 0.0, 9.0)
    # Client 1: 2 + 0.25 (6 - 2) = 3; client 2: 9; mean 6.
    known = history.estimates([1, 2], 20.0)
    assert known.duration.tolist() == pytest.approx([0.5, 1.5])


def test_failing_at_once_does_not_make_a_client_fast():
    history = TaskHistory()
    task(history, 1, 0.0, 2.0)
    task(history, 2, 0.0, 0.001, delivered=False)
    assert row(history, 2)["duration"] == 1.0
    assert row(history, 2)["reliability"] == 0.0


def test_reliability_is_the_share_of_ended_tasks_that_delivered():
    history = TaskHistory()
    for turn, delivered in enumerate([True, False, True, True]):
        task(history, 1, turn, turn + 0.5, delivered=delivered)
    history.begin(1, 10.0)
    assert row(history, 1)["reliability"] == 0.75


def test_utilisation_fades_over_the_recent_time():
    history = TaskHistory(recent=10.0)
    task(history, 1, 0.0, 1.0)
    # The mean duration is 1, so the horizon is 10: busy for 1, then idle for 5.
    busy = 1 - math.exp(-0.1)
    assert row(history, 1, now=1.0)["utilisation"] == pytest.approx(100 * busy)
    assert row(history, 1, now=6.0)["utilisation"] == pytest.approx(100 * busy * math.exp(-0.5))


def test_a_client_always_busy_has_a_utilisation_of_a_hundred():
    history = TaskHistory()
    for turn in range(200):
        task(history, 1, turn, turn + 1)
    assert row(history, 1, now=200)["utilisation"] == pytest.approx(100, abs=0.01)


def test_a_reported_utilisation_stands_until_the_next_report():
    history = TaskHistory()
    task(history, 1, 0.0, 1.0, utilisation=85.0)
    task(history, 1, 50.0, 51.0)
    assert row(history, 1, now=500.0)["utilisation"] == 85.0
    task(history, 1, 600.0, 601.0, utilisation=20.0)
    assert row(history, 1, now=700.0)["utilisation"] == 20.0


@pytest.mark.parametrize("nonsense", [-1.0, 101.0, math.nan])
def test_a_report_that_is_no_percentage_is_ignored(nonsense):
    honest, odd = TaskHistory(), TaskHistory()
    task(honest, 1, 0.0, 1.0)
    task(odd, 1, 0.0, 1.0, utilisation=nonsense)
    assert row(odd, 1) == row(honest, 1)


@pytest.mark.parametrize("options", [{"smoothing": 0.0}, {"smoothing": 1.1}, {"recent": 0.0}])
def test_impossible_averages_are_refused(options):
    with pytest.raises(BadOption):
        TaskHistory(**options)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(0.01, 10.0), st.booleans()), min_size=1, max_size=30
    ),
    st.integers(0, 29),
)
def test_a_restored_history_continues_bit_by_bit(tasks, cut):
    first, second = TaskHistory(), TaskHistory()
    now = 0.0
    for turn, (client, seconds, delivered) in enumerate(tasks):
        if turn == min(cut, len(tasks) - 1):
            second.restore(json.loads(json.dumps(first.state())))
        for history in (first, second) if turn >= min(cut, len(tasks) - 1) else (first,):
            task(history, client, now, now + seconds, delivered=delivered)
        now += seconds
    assert second.state() == first.state()
    one, other = (history.estimates(range(7), now + 1) for history in (first, second))
    assert one.duration.tolist() == other.duration.tolist()
    assert one.utilisation.tolist() == other.utilisation.tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 8), st.booleans()), max_size=20))
def test_the_unit_of_time_does_not_matter(tasks):
    seconds, units, now = TaskHistory(), TaskHistory(), 0
    for client, length, delivered in tasks:
        task(seconds, client, now, now + length, delivered=delivered)
        task(units, client, 64.0 * now, 64.0 * (now + length), delivered=delivered)
        now += length
    one, other = seconds.estimates(range(6), now), units.estimates(range(6), 64.0 * now)
    assert one.duration.tolist() == pytest.approx(other.duration.tolist())
    assert one.utilisation.tolist() == pytest.approx(other.utilisation.tolist())
