"""Load bounds of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fl_protocol.codes import AsynclaveError, GatewayUnavailable
from fl_server.gateway.limits import LoadLimits, RateLimiter, TransferSlots, read_body
from tests.support.clock import SetClock

PIECE = 16 * 1024


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def never() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


def test_a_burst_is_served_and_the_next_call_is_refused_until_time_passes() -> None:
    clock = SetClock()
    limiter = RateLimiter(rate=2.0, burst=3, clock=clock)
    for _ in range(3):
        limiter.spend("a")
    with pytest.raises(GatewayUnavailable, match="OVERLOADED"):
        limiter.spend("a")
    limiter.spend("b")
    clock.sleep(0.5)
    limiter.spend("a")
    with pytest.raises(GatewayUnavailable):
        limiter.spend("a")


def test_a_check_takes_nothing_and_refuses_once_the_bucket_is_empty() -> None:
    clock = SetClock()
    limiter = RateLimiter(rate=2.0, burst=1, clock=clock, max_keys=1)
    for _ in range(3):
        limiter.check("a")
    limiter.spend("a")
    limiter.check("b")
    with pytest.raises(GatewayUnavailable, match="OVERLOADED") as refusal:
        limiter.check("a")
    assert refusal.value.retry_after == 0.5
    clock.sleep(0.5)
    limiter.check("a")


def test_a_clock_put_back_does_not_keep_a_caller_out() -> None:
    clock = SetClock()
    limiter = RateLimiter(rate=2.0, burst=1, clock=clock)
    year = 365 * 86400.0
    clock.sleep(year)
    limiter.spend("a")
    clock.sleep(-year)
    with pytest.raises(GatewayUnavailable, match="OVERLOADED") as refusal:
        limiter.check("a")
    clock.sleep(refusal.value.retry_after)
    limiter.check("a")


def test_the_number_of_remembered_callers_is_bounded() -> None:
    limiter = RateLimiter(rate=1.0, burst=1, clock=SetClock(), max_keys=10)
    for number in range(11):
        limiter.spend(str(number))
    with pytest.raises(GatewayUnavailable, match="OVERLOADED"):
        limiter.spend("1")
    # Forgotten, so it has a full bucket again.
    limiter.spend("0")


def test_a_slot_is_returned_even_when_the_upload_fails() -> None:
    slots = TransferSlots(1, per_client=1)
    with pytest.raises(RuntimeError), slots.take("a"):
        with pytest.raises(GatewayUnavailable, match="OVERLOADED"), slots.take("b"):
            pass
        raise RuntimeError
    with slots.take("b"):
        pass


def test_one_client_cannot_take_every_slot() -> None:
    slots = TransferSlots(4, per_client=2)
    for _ in range(2):
        with slots.take("greedy"), slots.take("greedy"):
            with pytest.raises(GatewayUnavailable, match="OVERLOADED"), slots.take("greedy"):
                pass
            with slots.take("other"):
                pass


async def test_reads_exactly_the_announced_bytes() -> None:
    pieces = [bytes(1), bytes(PIECE), bytes(PIECE - 1)]
    assert await read_body(chunks(*pieces), 2 * PIECE, LoadLimits()) == pieces


@pytest.mark.parametrize(
    ("body", "length", "code"),
    [
        (chunks(b"abcd"), 3, "TOO_LARGE"),
        (chunks(b"ab"), 3, "ENV_LENGTH"),
        (chunks(), 11, "TOO_LARGE"),
        (chunks(b"", b"abc"), 3, "ENV_LENGTH"),
        (never(), 3, "DEADLINE"),
    ],
)
async def test_refuses_a_body_that_is_not_as_announced(
    body: AsyncIterator[bytes], length: int, code: str
) -> None:
    with pytest.raises(AsynclaveError, match=f"^{code}: "):
        await read_body(body, length, LoadLimits(max_body=10, read_deadline=0.05))


@pytest.mark.parametrize("part", [b"", b"x"], ids=["empty", "one byte"])
async def test_a_body_in_small_pieces_is_refused_before_they_fill_the_memory(part: bytes) -> None:
    sent = chunks(*[part] * 200)
    with pytest.raises(AsynclaveError, match=r"^ENV_LENGTH: the body comes in too many pieces"):
        await read_body(sent, 100 * PIECE, LoadLimits())
    assert len([left async for left in sent]) == 200 - (100 + 2)
