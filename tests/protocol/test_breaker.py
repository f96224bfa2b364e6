from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_protocol.breaker import FAILURES, FIRST_REST, LONGEST_REST, CircuitBreaker
from fl_protocol.codes import EnvelopeRejected, GatewayUnavailable
from tests.support.clock import SetClock


def down() -> None:
    raise GatewayUnavailable("GATEWAY_UNAVAILABLE")


def refuse() -> None:
    raise EnvelopeRejected("ENV_EPOCH")


def outcome(breaker: CircuitBreaker, attempt=lambda: "answer") -> str:
    try:
        return breaker.call(attempt)
    except (GatewayUnavailable, EnvelopeRejected) as error:
        return error.code


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def breaker(clock: SetClock) -> CircuitBreaker:
    return CircuitBreaker(clock, lambda error: isinstance(error, GatewayUnavailable))


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(FAILURES):
        assert outcome(breaker, down) == "GATEWAY_UNAVAILABLE"
    return breaker


def test_opens_after_five_failures_in_a_row(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        for _ in range(FAILURES - 1):
            outcome(breaker, down)
        assert outcome(breaker) == "answer"
    opened(breaker)
    assert outcome(breaker) == "CIRCUIT_OPEN"


def test_an_answer_is_no_failure(breaker: CircuitBreaker) -> None:
    for _ in range(FAILURES - 1):
        outcome(breaker, down)
    assert outcome(breaker, refuse) == "ENV_EPOCH"
    assert outcome(breaker, down) == "GATEWAY_UNAVAILABLE"
    assert outcome(breaker) == "answer"


def test_says_when_it_will_probe(breaker: CircuitBreaker, clock: SetClock) -> None:
    opened(breaker)
    clock.sleep(4)
    with pytest.raises(GatewayUnavailable) as caught:
        breaker.call(lambda: "answer")
    assert caught.value.retry_after == FIRST_REST - 4


def test_rests_twice_as_long_after_each_failed_probe_and_closes_on_success(
    breaker: CircuitBreaker, clock: SetClock
) -> None:
    opened(breaker)
    for rest in (10.0, 20.0, 30.0, 30.0):
        clock.sleep(rest - 0.001)
        assert outcome(breaker) == "CIRCUIT_OPEN"
        clock.sleep(0.001)
        assert outcome(breaker, down) == "GATEWAY_UNAVAILABLE"
    clock.sleep(LONGEST_REST)
    assert outcome(breaker) == "answer"
    # As good as new.
    opened(breaker)
    clock.sleep(FIRST_REST)
    assert outcome(breaker) == "answer"


def test_of_many_threads_exactly_one_probes(breaker: CircuitBreaker, clock: SetClock) -> None:
    opened(breaker)
    clock.sleep(FIRST_REST)
    together, refused, probes = threading.Barrier(8), threading.Semaphore(0), []

    def probe() -> str:
        probes.append(threading.get_ident())
        for _ in range(7):
            assert refused.acquire(timeout=10)
        return "answer"

    def caller(_: int) -> str:
        together.wait(10)
        answer = outcome(breaker, probe)
        refused.release()
        return answer

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(caller, range(8)))
    assert len(probes) == 1
    assert sorted(answers) == ["CIRCUIT_OPEN"] * 7 + ["answer"]


def test_an_interrupted_probe_leaves_the_probe_to_the_next(
    breaker: CircuitBreaker, clock: SetClock
) -> None:
    opened(breaker)
    clock.sleep(FIRST_REST)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaker.call(interrupted)
    assert outcome(breaker) == "answer"


def test_a_probe_that_is_refused_closes_it(breaker: CircuitBreaker, clock: SetClock) -> None:
    opened(breaker)
    clock.sleep(FIRST_REST)
    assert outcome(breaker, refuse) == "ENV_EPOCH"
    assert outcome(breaker) == "answer"


def test_a_clock_set_back_cannot_hold_it_open(breaker: CircuitBreaker, clock: SetClock) -> None:
    opened(breaker)
    clock.sleep(-86400)
    assert outcome(breaker) == "CIRCUIT_OPEN"
    clock.sleep(FIRST_REST)
    assert outcome(breaker) == "answer"


@given(st.lists(st.tuples(st.sampled_from(["up", "down", "refuse"]), st.floats(0, 40))))
def test_it_never_calls_within_a_rest_and_always_after_it(steps) -> None:
    clock = SetClock()
    breaker = CircuitBreaker(clock, lambda error: isinstance(error, GatewayUnavailable))
    attempts = {"up": lambda: "answer", "down": down, "refuse": refuse}
    failures, rest, opened_at = 0, FIRST_REST, None
    for kind, pause in steps:
        clock.sleep(pause)
        answer = outcome(breaker, attempts[kind])
        if opened_at is not None and clock.now() - opened_at < rest:
            assert answer == "CIRCUIT_OPEN"
            continue
        assert answer != "CIRCUIT_OPEN"
        if kind != "down":
            failures, rest, opened_at = 0, FIRST_REST, None
            continue
        failures += 1
        if opened_at is not None:
            rest = min(2 * rest, LONGEST_REST)
        if opened_at is not None or failures >= FAILURES:
            opened_at = clock.now()
