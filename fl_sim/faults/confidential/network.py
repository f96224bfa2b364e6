"""Calls between the machines of a world: lost, repeated, overheard, and made with old tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fl_protocol.codes import Code
from fl_protocol.header import Header
from fl_protocol.identity import Identity
from fl_protocol.ports import Clock, Rng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.wire import Wire
from fl_sim.faults.chance import Chance, Violation
from fl_sim.faults.confidential.actors import Actors, ProcessClock
from fl_sim.faults.confidential.gateway import (
    Call,
    Gateway,
    Refused,
    is_authentication,
    unavailable,
)
from fl_sim.faults.confidential.truth import Truth
from fl_sim.faults.disk import SimulatedDisk

_LATENCY = (0.001, 0.2)
_LONGEST_REPLAY = 25.0
_OLD_SECONDS = 400.0
_REPLIES: dict[str, Any] = {
    "Enrol": pb.EnrolReply,
    "IssueToken": pb.TokenReply,
    "GetKeys": pb.KeysReply,
    "GetEvidence": pb.EvidenceReply,
    "OpenRun": pb.OpenRunReply,
    "SubmitUpdate": pb.SubmitReply,
    "GetUpdateStatus": pb.UpdateStatusReply,
    "GetRelease": pb.ReleaseChunk,
    "GetRecords": pb.RecordsReply,
}


class Network:
    """Carries calls to whichever gateway is alive.

    Parameters
    ----------
    actors : Actors
        Whose time passes.
    chance : Chance
        Decides what goes wrong.
    truth : Truth
        Is shown what passes.
    clock : ProcessClock
        The gateway's.

    Attributes
    ----------
    gateway : Gateway or None
        The one that is alive.
    calls : int
        Calls carried.
    """

    def __init__(self, actors: Actors, chance: Chance, truth: Truth, clock: ProcessClock) -> None:
        self._actors, self._chance, self._truth, self._clock = actors, chance, truth, clock
        self.gateway: Gateway | None = None
        self.calls = 0
        self._overheard: list[tuple[float, int, Call]] = []

    def carry(self, caller: SimulatedDisk, call: Call, jkt: str) -> list[bytes]:
        """Make a call for a machine; raises Refused."""
        caller.step()
        self._actors.sleep(self._chance.rng.uniform(*_LATENCY))
        if self._chance.strikes("lose_request"):
            raise unavailable()
        replies = self._serve(call, jkt)
        if self._chance.strikes("lose_reply"):
            raise unavailable()
        self._actors.sleep(self._chance.rng.uniform(*_LATENCY))
        caller.step()
        return replies

    def replay(self) -> None:
        """I12: send what was overheard again, which the gateway must not let in."""
        now = self._actors.elapsed
        due = [item for item in self._overheard if item[0] <= now]
        self._overheard = [item for item in self._overheard if item[0] > now]
        for _, times_set, call in due:
            # What a clock that was ahead took for long past is not remembered when it is right.
            alive = self.gateway is not None and not self.gateway.dead
            if alive and times_set == self._clock.times_set:
                self._must_be_refused(call)

    def _serve(self, call: Call, jkt: str) -> list[bytes]:
        gateway = self.gateway
        if gateway is None or gateway.dead:
            raise unavailable()
        self.calls += 1
        for request in call.requests:
            self._truth.seen(request)
        if call.method == "SubmitUpdate":
            self._show_submission(call, jkt)
        try:
            replies = gateway.serve(call)
        except Refused as refused:
            if refused.asynclave_code == Code.INTERNAL:
                self._truth.failed("the gateway")
            # Of one that died nobody knows how far it had come.
            if not gateway.dead and not is_authentication(refused.asynclave_code):
                self._overhear(call)
            raise
        finally:
            self._truth.check()
        self._overhear(call)
        return replies

    def _overhear(self, call: Call) -> None:
        if self._chance.strikes("repeat"):
            self._must_be_refused(call)
        if self._chance.strikes("replay"):
            when = self._actors.elapsed + self._chance.rng.uniform(0.0, _LONGEST_REPLAY)
            self._overheard.append((when, self._clock.times_set, call))

    def _must_be_refused(self, call: Call) -> None:
        gateway = self.gateway
        if gateway is None or gateway.dead:
            return
        try:
            gateway.serve(call)
        except Refused as refused:
            if gateway.dead or is_authentication(refused.asynclave_code):
                return
        finally:
            self._truth.check()
        raise Violation(f"I12: the gateway served the same {call.method} twice")

    def _show_submission(self, call: Call, jkt: str) -> None:
        envelope = pb.SubmitRequest.FromString(call.requests[0]).header
        header = Header.decode(envelope.protected)
        metadata = dict(call.metadata)
        token = metadata.get("authorization", "").partition(" ")[2]
        self._truth.submitted(header, token, jkt, self._clock.now())


class SimulatedWire(Wire):
    """Production's wire over a simulated network.

    Parameters
    ----------
    network : Network
        Carries the calls.
    disk : SimulatedDisk
        Of the machine that makes them.
    chance : Chance
        Decides what goes wrong.
    identity, clock, rng : Identity, Clock, Rng
        As for `Wire`.
    """

    def __init__(
        self,
        network: Network,
        disk: SimulatedDisk,
        chance: Chance,
        identity: Identity,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._identity, self._clock, self._rng, self._timeout = identity, clock, rng, 60.0
        self._network, self._disk, self._chance = network, disk, chance
        self._stub: Any = self
        self._nonce = None
        self._tokens: list[tuple[float, str]] = []

    def close(self) -> None:
        """Nothing is open."""

    def invoke(self, method: str, request: Any, read: Any, token: str | None, *rest: Any) -> Any:
        """Make one attempt, perhaps with a token from long ago."""
        if token is not None:
            self._tokens.append((self._clock.now(), token))
            if self._clock.now() - self._tokens[0][0] > _OLD_SECONDS and (
                self._chance.strikes("old_token")
            ):
                token = self._tokens.pop(0)[1]
        return super().invoke(method, request, read, token, *rest)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Return what makes the calls of a method."""
        if method not in _REPLIES:
            raise AttributeError(method)

        def call(message: Any, timeout: float, metadata: Iterable[tuple[str, str]]) -> Any:
            messages: Iterator[Any] = (
                iter([message]) if hasattr(message, "SerializeToString") else iter(message)
            )
            requests = tuple(each.SerializeToString() for each in messages)
            made = Call(method, requests, tuple(metadata))
            replies = self._network.carry(self._disk, made, self._identity.jkt)
            decoded = [_REPLIES[method].FromString(reply) for reply in replies]
            return iter(decoded) if method == "GetRelease" else decoded[0]

        return call
