"""The call being served: what audit, enclave and receipt shall say about it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from fl_protocol.wire import SERVICE
from tee_sim.hop import Origin, origin

# W3C Trace Context, version 00; an id of zeros is none.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

# Above any name that is a client's.
_MAX_CLAIM = 128
# gRPC ends the messages of a caller that hung up before it cancels the call, by less than a
# millisecond on an idle machine.
_HANG_UP_SECONDS = 0.1

# Raises if whoever makes a call may not make it any more.
Check = Callable[[], Awaitable[None]]

_current: ContextVar[Call] = ContextVar("asynclave_call")


async def admit_anyone() -> None:
    """Check nothing: anybody may make the call."""


@dataclass
class Call:
    """What is known of the call being served; handlers fill in what the audit line should say.

    ``client_id`` is who makes it, ``claimed_client`` who the caller says it is as long as that is
    not proved. ``still_admitted`` is to be asked again after every wait for the caller or for
    others.
    """

    method: str
    client_id: str = ""
    claimed_client: str = ""
    trace_id: str = ""
    outcome: str = "OK"
    still_admitted: Check = admit_anyone

    def claim(self, client_id: str) -> None:
        """Note what the caller says."""
        self.claimed_client = client_id[:_MAX_CLAIM]

    def prove(self, client_id: str) -> None:
        """Note who the caller is."""
        self.client_id, self.claimed_client = client_id, ""

    def follow(self, trace_id: str) -> None:
        """Adopt the trace that audit, enclave and receipt shall name."""
        self.trace_id = trace_id
        origin.set(Origin(SERVICE + self.method, trace_id))


def begin_call(method: str, metadata: Mapping[str, str]) -> Call:
    """Begin to serve a method, in its caller's trace if the metadata names one."""
    call = Call(method)
    found = _TRACEPARENT.fullmatch(str(metadata.get("traceparent", "")))
    call.follow(found[1] if found else secrets.token_hex(16))
    _current.set(call)
    return call


async def await_hang_up() -> None:
    """Let the call be cancelled if its messages ended early because the caller hung up."""
    await asyncio.sleep(_HANG_UP_SECONDS)


def current_call() -> Call:
    """Return the call the running handler serves."""
    return _current.get()
