from __future__ import annotations

import pytest

from fl_protocol.codes import GatewayUnavailable
from fl_protocol.retry import FIRST_WAIT, LONGEST_WAIT, retried
from tests.protocol.support import CountedRng
from tests.support.clock import SetClock


class Service:
    """Fails so often, and notes when it was asked."""

    def __init__(self, clock: SetClock, failures: int, retry_after: float = 0.0) -> None:
        self.clock, self.failures, self.retry_after = clock, failures, retry_after
        self.asked: list[float] = []

    def __call__(self) -> str:
        self.asked.append(self.clock.now())
        if len(self.asked) <= self.failures:
            raise GatewayUnavailable("OVERLOADED", retry_after=self.retry_after)
        return "answer"

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in zip(self.asked, self.asked[1:], strict=False)]


def run(service: Service, patience: float = 60.0, temporary=lambda error: True) -> str:
    return retried(service, temporary, patience, service.clock, CountedRng("jitter"))


def test_waits_twice_as_long_each_time_with_jitter() -> None:
    service = Service(SetClock(), 8)
    assert run(service) == "answer"
    plain = [min(FIRST_WAIT * 2**n, LONGEST_WAIT) for n in range(8)]
    extra = [wait - least for wait, least in zip(service.waits, plain, strict=True)]
    assert all(-1e-6 <= more < FIRST_WAIT + 1e-6 for more in extra)
    assert len(set(extra)) > 1


def test_believes_a_service_that_says_how_long() -> None:
    service = Service(SetClock(), 2, retry_after=7.0)
    assert run(service) == "answer"
    assert service.waits == pytest.approx([7.0, 7.0])


def test_gives_up_when_the_next_attempt_would_be_too_late() -> None:
    service = Service(SetClock(), 99)
    with pytest.raises(GatewayUnavailable):
        run(service, patience=3.0)
    assert service.asked[-1] - service.asked[0] <= 3.0
    assert service.clock.now() == service.asked[-1]


def test_what_does_not_pass_is_not_tried_again() -> None:
    service = Service(SetClock(), 1)
    with pytest.raises(GatewayUnavailable):
        run(service, temporary=lambda error: False)
    assert len(service.asked) == 1
