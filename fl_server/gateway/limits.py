"""Bounds that keep the gateway standing: request rate, concurrent uploads, body size, read time.

They apply before any signature is checked where possible, so refusing is always cheaper than
being served.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fl_protocol.codes import Code, ConfigInvalid, GatewayUnavailable, error_for
from fl_protocol.ports import Chunk, Clock
from fl_server.gateway.call import await_hang_up

# Every piece of a body costs about 400 bytes beside its content.
_LEAST_PIECE = 16 * 1024


@dataclass(frozen=True)
class LoadLimits:
    """What one gateway process accepts.

    Attributes
    ----------
    max_body : int
        Largest streamed body, bytes.
    max_uploads : int
        Uploads held in memory at the same time; memory is bounded by max_body * max_uploads.
        As many downloads may be under way.
    max_transfers_per_client : int
        Of these, how many of either kind one client may have: a slow one must not fill them all.
    rate : float
        Sustained calls per second for one client (or one address before authentication), and,
        counted apart, of an address whose access tokens are refused.
    burst : int
        Calls a quiet client may make at once, and such tokens a quiet address.
    request_deadline : float
        Seconds a caller has to begin its request. Strangers, too, occupy a call for as long, so it
        times the rate has to stay well below the calls the gateway serves at a time.
    read_deadline : float
        Seconds a client has to deliver a whole body.
    write_deadline : float
        Seconds a client has to take a whole reply.

    Raises
    ------
    ConfigInvalid
        One of them is not above 0.
    """

    max_body: int = 256 * 1024 * 1024
    max_uploads: int = 16
    max_transfers_per_client: int = 4
    rate: float = 50.0
    burst: int = 200
    request_deadline: float = 10.0
    read_deadline: float = 60.0
    write_deadline: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigInvalid(Code.CONFIG_INVALID, f"{name} must be above 0, not {value}.")


class RateLimiter:
    """Token bucket per key, with a bounded number of keys (the longest idle is forgotten).

    It may be used from several threads.
    """

    def __init__(self, rate: float, burst: int, clock: Clock, max_keys: int = 10_000) -> None:
        self._rate, self._burst, self._clock, self._max_keys = rate, burst, clock, max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def spend(self, key: str) -> None:
        """Take one token of `key`'s bucket; raise OVERLOADED when it is empty."""
        with self._lock:
            now = self._clock.now()
            tokens = self._tokens(key, now)
            self._buckets[key] = (tokens - 1.0 if tokens >= 1.0 else tokens, now)
            self._buckets.move_to_end(key)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        self._demand(tokens)

    def check(self, key: str) -> None:
        """Raise OVERLOADED when `key`'s bucket is empty; takes nothing, remembers nobody new."""
        with self._lock:
            now = self._clock.now()
            tokens = self._tokens(key, now)
            if key in self._buckets:
                # From this time on, also when the clock was put back.
                self._buckets[key] = (tokens, now)
        self._demand(tokens)

    def _tokens(self, key: str, now: float) -> float:
        tokens, last = self._buckets.get(key, (float(self._burst), now))
        return min(float(self._burst), tokens + max(0.0, now - last) * self._rate)

    def _demand(self, tokens: float) -> None:
        if tokens < 1.0:
            raise GatewayUnavailable(
                Code.OVERLOADED,
                "too many calls; slow down and try again",
                retry_after=(1.0 - tokens) / self._rate,
            )


class TransferSlots:
    """At most `count` bodies in memory, `per_client` of them of one client.

    The next one is refused at once, never queued.
    """

    def __init__(self, count: int, per_client: int) -> None:
        self._free, self._per_client = count, per_client
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Hold one slot for the duration of the block; raise OVERLOADED when none is free."""
        if self._free == 0 or self._taken[client] == self._per_client:
            raise GatewayUnavailable(
                Code.OVERLOADED, "the gateway is transferring as much as it can; try again"
            )
        self._free -= 1
        self._taken[client] += 1
        try:
            yield
        finally:
            self._free += 1
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]


async def read_body(chunks: AsyncIterator[Chunk], length: int, limits: LoadLimits) -> list[Chunk]:
    """Collect exactly `length` bytes of a stream, in pieces of 16 KiB or more on average.

    Parameters
    ----------
    chunks : AsyncIterator of bytes-like
        What the client sends after its header.
    length : int
        Bytes the header announced.
    limits : LoadLimits
        Bounds; only `max_body` and `read_deadline` are used.

    Raises
    ------
    AsynclaveError
        TOO_LARGE before anything is read when the announcement exceeds the bound, and as soon as
        the stream exceeds the announcement; ENV_LENGTH when it ends early, or comes in more
        pieces than it may; DEADLINE when it takes too long.
    """
    if length > limits.max_body:
        raise error_for(
            Code.TOO_LARGE, f"a body of {length} bytes exceeds the limit of {limits.max_body}"
        )
    parts: list[Chunk] = []
    received, most_pieces = 0, length // _LEAST_PIECE + 1
    try:
        async with asyncio.timeout(limits.read_deadline):
            async for chunk in chunks:
                received += len(chunk)
                if received > length:
                    raise error_for(Code.TOO_LARGE, "the body is longer than announced")
                parts.append(chunk)
                if len(parts) > most_pieces:
                    raise error_for(Code.ENV_LENGTH, "the body comes in too many pieces")
    except TimeoutError:
        raise error_for(
            Code.DEADLINE, f"the body did not arrive within {limits.read_deadline:g} s"
        ) from None
    if received != length:
        await await_hang_up()
        raise error_for(Code.ENV_LENGTH, "the body is shorter than announced")
    return parts
