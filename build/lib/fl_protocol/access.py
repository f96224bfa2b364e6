"""Enrolment and access tokens of one node: obtained when needed, renewed before they run out."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from fl_protocol.codes import Code, EnrolmentRejected, GatewayUnavailable, TokenRejected
from fl_protocol.identity import NONCE_BYTES, Enrolment, Identity, IdentityStore
from fl_protocol.ports import Clock, Rng, Transport
from fl_protocol.proto import gateway_pb2 as pb


@dataclass(frozen=True)
class _Token:
    token: str
    renew_at: float
    expires_at: float


class Credentials:
    """Holds the enrolment and the current access token; safe to share between threads.

    Parameters
    ----------
    wire : Transport
        The channel to the gateway.
    identity : Identity
        This node's keys.
    ticket : str or None
        Enrolment ticket; not needed once enrolled.
    clock, rng : Clock, Rng
        Time for renewal; source of nonces.
    store : IdentityStore or None
        Where the enrolment is kept between processes.
    """

    def __init__(
        self,
        wire: Transport,
        identity: Identity,
        ticket: str | None,
        clock: Clock,
        rng: Rng,
        store: IdentityStore | None,
    ) -> None:
        self._wire = wire
        self._identity = identity
        self._ticket = ticket
        self._clock = clock
        self._rng = rng
        self._store = store
        self._lock = threading.RLock()
        self._enrolment = store.load_enrolment() if store else None
        self._current: _Token | None = None
        self._refresh_token = ""

    def enrolled(self) -> Enrolment:
        """Return the enrolment, redeeming the ticket the first time (one attempt).

        Raises
        ------
        EnrolmentRejected
            Without a ticket, or when the gateway refuses it.
        """
        with self._lock:
            if self._enrolment is not None:
                return self._enrolment
            if not self._ticket:
                raise EnrolmentRejected(
                    Code.ENROL_TICKET_INVALID,
                    "This node is not enrolled and its configuration holds no ticket; "
                    "ask the operator for one.",
                )
            request = pb.EnrolRequest(
                ticket=self._ticket,
                identity_key=self._identity.public_identity_key,
                proof_key=self._identity.public_proof_key,
                signature=self._identity.sign_enrolment(self._ticket),
            )
            reply = self._wire.invoke("Enrol", request, _whole, None)
            self._enrolment = Enrolment(reply.client_id, reply.membership)
            self._refresh_token = reply.refresh_token
            if self._store is not None:
                self._store.save_enrolment(self._enrolment)
            return self._enrolment

    def token(self, refused: str | None = None) -> str:
        """Return an access token other than the refused one, renewed before half its lifetime."""
        with self._lock:
            current, now = self._current, self._clock.now()
            if current is not None and current.token != refused:
                if now < current.renew_at:
                    return current.token
                if now < current.expires_at:
                    return self._renew_early(current)
            return self._renew()

    def _renew_early(self, current: _Token) -> str:
        try:
            return self._renew()
        except GatewayUnavailable:
            return current.token

    def _renew(self) -> str:
        client_id = self.enrolled().client_id
        reply = self._by_refresh_token(client_id) or self._by_identity(client_id)
        now = self._clock.now()
        self._refresh_token = reply.refresh_token
        self._current = _Token(
            reply.access_token, now + reply.expires_in / 2, now + reply.expires_in
        )
        return self._current.token

    def _by_refresh_token(self, client_id: str) -> Any:
        # Spent before it is sent: presenting it again after a lost reply would look like theft
        # and revoke the family, while the identity key always works.
        refresh_token, self._refresh_token = self._refresh_token, ""
        if not refresh_token:
            return None
        request = pb.TokenRequest(
            client_id=client_id,
            refresh_token=refresh_token,
            proof_key=self._identity.public_proof_key,
        )
        try:
            return self._wire.invoke("IssueToken", request, _whole, None)
        except (TokenRejected, EnrolmentRejected):
            return None

    def _by_identity(self, client_id: str) -> Any:
        iat, nonce = int(self._clock.now()), self._rng.bytes(NONCE_BYTES)
        signature = self._identity.sign_grant(client_id, iat, nonce)
        request = pb.TokenRequest(
            client_id=client_id,
            identity=pb.IdentityGrant(iat=iat, nonce=nonce, signature=signature),
            proof_key=self._identity.public_proof_key,
        )
        return self._wire.invoke("IssueToken", request, _whole, None)


def _whole(reply: Any) -> Any:
    return reply
