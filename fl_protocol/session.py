"""A node's session with the gateway: TLS, enrolment, token renewal, proofs and retries.

Used by clients and by the server alike; the ticket they enrolled with decides their role.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from fl_protocol.access import Credentials
from fl_protocol.breaker import CircuitBreaker
from fl_protocol.codes import Code, GatewayUnavailable, TokenRejected
from fl_protocol.identity import Enrolment, Identity, IdentityStore
from fl_protocol.ports import Clock, Rng, Transport
from fl_protocol.retry import retried
from fl_protocol.wire import Wire

# A revoked family is not a revoked node, which is told so when it asks for another token; a token
# of the future was issued while the gateway's clock was ahead.
_RENEWABLE = {
    Code.TOKEN_EXPIRED,
    Code.TOKEN_NOT_YET_VALID,
    Code.TOKEN_UNKNOWN_KEY,
    Code.TOKEN_REVOKED,
}
# Failures that say nothing about whether the gateway can be reached.
_ANSWERS = {Code.OVERLOADED, Code.ENCLAVE_UNAVAILABLE, Code.REGISTRY_UNAVAILABLE}
_Reply = TypeVar("_Reply")


class Session:
    """Authenticated calls to one gateway.

    Safe to share between threads. A call that failed because the gateway could not be reached is
    made again until `patience` runs out; `fl_protocol.retry` has the schedule. All calls are safe
    to repeat: the enclave takes an update in once, and a run that is open can be joined. A gateway
    that cannot be reached several times in a row is left alone for a while by all threads; see
    `fl_protocol.breaker`.

    Parameters
    ----------
    address : str
        "host:port" of the gateway.
    ca_pem : bytes
        PEM certificates of the authorities the gateway's certificate must come from.
    identity : Identity
        This node's keys.
    ticket : str or None
        Enrolment ticket; not needed once enrolled.
    clock, rng : Clock, Rng
        Time for token renewal and proofs; source of nonces.
    store : IdentityStore, optional
        Where enrolment and tokens are kept between processes.
    patience : float
        Seconds to keep trying while the gateway or its enclave cannot be reached.
    timeout : float
        Seconds one attempt of a call may take.
    transport : Transport, optional
        What carries the calls; gRPC over TLS by default.
    """

    def __init__(
        self,
        address: str,
        ca_pem: bytes,
        identity: Identity,
        ticket: str | None,
        clock: Clock,
        rng: Rng,
        *,
        store: IdentityStore | None = None,
        patience: float = 30.0,
        timeout: float = 60.0,
        transport: Transport | None = None,
    ) -> None:
        self.address = address
        self._clock, self._rng = clock, rng
        self._patience = patience
        self._breaker = CircuitBreaker(clock, _is_out_of_reach)
        self._wire = transport or Wire(address, ca_pem, identity, clock, rng, timeout)
        self._credentials = Credentials(self._wire, identity, ticket, clock, rng, store)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def enrol(self) -> Enrolment:
        """Return this node's enrolment, enrolling with the ticket the first time.

        Raises
        ------
        EnrolmentRejected
            If there is no ticket or the gateway refuses it.
        GatewayUnavailable
            If the gateway could not be reached in time.
        """
        return self._patiently(self._credentials.enrolled)

    def call(
        self,
        method: str,
        request: Any,
        *,
        timeout: float | None = None,
        trace_id: str | None = None,
    ) -> Any:
        """Make one call that answers with one message.

        Parameters
        ----------
        method : str
            Name in the service, for example "SubmitUpdate".
        request : message or callable
            A message, or a function that returns a new message or a new iterator of messages;
            it is called once per attempt.
        timeout : float, optional
            Seconds per attempt, instead of the session's.
        trace_id : str, optional
            32 hexadecimal digits sent on as W3C ``traceparent``.

        Returns
        -------
        message
            The method's reply.

        Raises
        ------
        AsynclaveError
            The typed error of the gateway's code; `GatewayUnavailable` when patience ran out.
        """
        return self.receive(method, request, lambda reply: reply, timeout, trace_id)

    def receive(
        self,
        method: str,
        request: Any,
        read: Callable[[Any], _Reply],
        timeout: float | None = None,
        trace_id: str | None = None,
    ) -> _Reply:
        """Make a call and let `read` consume its reply or iterator of replies.

        An interrupted stream starts anew: `read` is called once per attempt. Parameters and errors
        are those of `call`.
        """
        return self._patiently(lambda: self._authorised(method, request, read, timeout, trace_id))

    def _patiently(self, attempt: Callable[[], _Reply]) -> _Reply:
        started = self._clock.now()
        try:
            return retried(
                lambda: self._breaker.call(attempt),
                _is_temporary,
                self._patience,
                self._clock,
                self._rng,
            )
        except GatewayUnavailable as error:
            raise self._gave_up(error, self._clock.now() - started) from error

    def _gave_up(self, error: GatewayUnavailable, elapsed: float) -> GatewayUnavailable:
        return GatewayUnavailable(
            error.code,
            f"No usable answer from the gateway at {self.address} after trying for "
            f"{elapsed:.1f} s. Check that it runs, and that the address and the ca_pem "
            f"certificate are its own. Last error: {error.sentence}",
        )

    def _authorised(
        self,
        method: str,
        request: Any,
        read: Callable[[Any], _Reply],
        timeout: float | None,
        trace_id: str | None,
    ) -> _Reply:
        token = self._credentials.token()
        try:
            return self._wire.invoke(method, request, read, token, timeout, trace_id)
        except TokenRejected as error:
            if error.code not in _RENEWABLE:
                raise
        return self._wire.invoke(
            method, request, read, self._credentials.token(token), timeout, trace_id
        )


def _is_temporary(error: GatewayUnavailable) -> bool:
    return error.code != Code.DEADLINE


def _is_out_of_reach(error: Exception) -> bool:
    return isinstance(error, GatewayUnavailable) and error.code not in _ANSWERS
