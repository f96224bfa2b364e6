"""Enrolment and access tokens of one node: obtained when needed, renewed before they run out."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from fl_protocol.codes import Code, EnrolmentRejected, GatewayUnavailable, TokenRejected
from fl_protocol.identity import NONCE_BYTES, Enrolment, Identity, IdentityStore
from fl_protocol.ports import Clock, Rng, Transport
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.token_store import MemoryTokens, Tokens
from fl_protocol.tokens import REFRESH_GRACE

# The gateway counts from when it was answered first, and a call takes its time.
_PRESENTABLE_SECONDS = REFRESH_GRACE / 2


class Credentials:
    """Holds the enrolment and the current access token; safe to share between threads.

    Processes of one node share both by their store.

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
        Where enrolment and tokens are kept between processes, and shared by them.
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
        self._shared = store.tokens if store else MemoryTokens()
        self._enrolment = store.load_enrolment() if store else None
        self._current = Tokens(identity.jkt)

    def enrolled(self) -> Enrolment:
        """Return the enrolment, redeeming the ticket the first time (one attempt).

        Raises
        ------
        EnrolmentRejected
            Without a ticket, or when the gateway refuses it.
        """
        with self._lock:
            if self._enrolment is None:
                with self._shared.alone():
                    self._enrol()
            return self._known()

    def token(self, refused: str | None = None) -> str:
        """Return an access token other than the refused one, renewed before half its lifetime."""
        with self._lock:
            if not self._is_fresh(refused):
                with self._shared.alone():
                    # Another process may have renewed it meanwhile.
                    self._read()
                    if not self._is_fresh(refused):
                        self._renewed(refused)
            return self._current.access_token

    def _is_fresh(self, refused: str | None) -> bool:
        token = self._current.access_token
        return bool(token) and token != refused and self._clock.now() < self._current.renew_at

    def _read(self) -> None:
        kept = self._shared.load()
        if kept is not None and kept.jkt == self._identity.jkt:
            self._current = kept

    def _renewed(self, refused: str | None) -> None:
        try:
            self._renew()
        except GatewayUnavailable:
            usable = self._clock.now() < self._current.expires_at
            if not usable or self._current.access_token == refused:
                raise

    def _enrol(self) -> None:
        """Redeem the ticket, unless this node is enrolled; only with the tokens' lock."""
        if self._store is not None:
            self._enrolment = self._store.load_enrolment()
        if self._enrolment is not None:
            return
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
        if self._store is not None:
            self._store.save_enrolment(self._enrolment)
        self._keep(Tokens(self._identity.jkt, refresh_token=reply.refresh_token))

    def _known(self) -> Enrolment:
        assert self._enrolment is not None
        return self._enrolment

    def _keep(self, tokens: Tokens) -> None:
        self._current = tokens
        self._shared.save(tokens)

    def _renew(self) -> None:
        self._enrol()
        client_id = self._known().client_id
        reply = self._by_refresh_token(client_id) or self._by_identity(client_id)
        now = self._clock.now()
        self._keep(
            Tokens(
                self._identity.jkt,
                reply.access_token,
                reply.refresh_token,
                renew_at=int(now + reply.expires_in / 2),
                expires_at=int(now + reply.expires_in),
            )
        )

    def _by_refresh_token(self, client_id: str) -> Any:
        if not self._may_be_presented():
            return None
        refresh_token = self._current.refresh_token
        request = pb.TokenRequest(
            client_id=client_id,
            refresh_token=refresh_token,
            proof_key=self._identity.public_proof_key,
        )
        try:
            return self._wire.invoke("IssueToken", request, _whole, None)
        except (TokenRejected, EnrolmentRejected):
            return None

    def _may_be_presented(self) -> bool:
        """Note that the refresh token is about to be sent, if it was not, or only just before.

        After a lost reply it may be sent again for a while; later that would look like theft and
        revoke the family, while the identity key always works.
        """
        now, first = int(self._clock.now()), self._current.presented_at
        if not self._current.refresh_token:
            return False
        if not first:
            self._keep(replace(self._current, presented_at=now))
            return True
        return 0 <= now - first < _PRESENTABLE_SECONDS

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
