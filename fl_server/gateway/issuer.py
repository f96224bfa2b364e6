"""The issuer: enrols identities, vouches for them, and hands out short-lived access tokens."""

from __future__ import annotations

import hmac
import json
import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl_protocol.codes import Code, EnrolmentRejected, TokenRejected
from fl_protocol.encoding import b64url
from fl_protocol.identity import GRANT_WINDOW, verify_enrolment, verify_grant
from fl_protocol.membership import Membership, sign_membership
from fl_protocol.ports import Clock, Rng
from fl_protocol.proof import thumbprint
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.replay import OneUse
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.registry import Client, Family, Registry
from fl_server.gateway.token_keys import TokenKeys

ROLE_SCOPES = {
    "client": "update:submit attest:read",
    "server": "run:manage attest:read model:read",
}

# A grant dated GRANT_WINDOW ahead stays usable for twice as long.
GRANT_SECONDS = 2 * GRANT_WINDOW

_REFRESH = b"asynclave/refresh/v1"
_SECRET_BYTES = 32
_FAMILY_BYTES = 12
_PRUNE_SECONDS = 3600.0
_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,100}")


class Issuer:
    """Enrolment, memberships, access tokens and refresh tokens of one federation.

    Parameters
    ----------
    config : GatewayConfig
        Federation name and lifetimes.
    registry : Registry
        Tickets, clients and refresh families.
    membership_key : Ed25519PrivateKey
        Signs memberships; the only key of the issuer that the enclave trusts.
    token_keys : TokenKeys
        Sign access tokens.
    nonces : OneUse
        Remembers the nonces of grants for `GRANT_SECONDS`.
    clock, rng : Clock, Rng
        Time; secrets and ids.
    """

    def __init__(
        self,
        config: GatewayConfig,
        registry: Registry,
        *,
        membership_key: Ed25519PrivateKey,
        token_keys: TokenKeys,
        nonces: OneUse,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._config, self._registry = config, registry
        self._clock, self._rng = clock, rng
        self._membership_key = membership_key
        self._token_keys = token_keys
        self._pruned = 0.0
        self._nonces = nonces
        # Not the token key, which may be replaced between a lost reply and the next attempt.
        self._refresh_key = HKDF(SHA256(), _SECRET_BYTES, None, _REFRESH).derive(
            membership_key.private_bytes_raw()
        )

    def jwks_json(self) -> str:
        """Return the published key set (RFC 7517), without revoked keys."""
        keys = self._token_keys.jwks()["keys"]
        published = [key for key in keys if not self._registry.revoked(kid=key["kid"])]
        return json.dumps({"keys": published}, sort_keys=True)

    def enrol(self, request: pb.EnrolRequest) -> pb.EnrolReply:
        """Redeem a ticket for an identity key that signed the request.

        Raises
        ------
        EnrolmentRejected
            IDENTITY_INVALID, ENROL_TICKET_INVALID or ENROL_TICKET_USED.
        TokenRejected
            TOKEN_REVOKED for a client that enrolled with this ticket and was revoked.
        """
        verify_enrolment(request.ticket, request.identity_key, request.proof_key, request.signature)
        client = self._registry.redeem(request.ticket, request.identity_key, self._clock.now())
        if self._registry.revoked(client=client.client_id):
            raise TokenRejected(Code.TOKEN_REVOKED)
        membership = Membership.of(
            self._config.federation, client.client_id, client.identity_key, client.role
        )
        _, refresh_token = self._start_family(client, thumbprint(request.proof_key))
        return pb.EnrolReply(
            client_id=client.client_id,
            membership=sign_membership(membership, self._membership_key),
            refresh_token=refresh_token,
        )

    def issue(self, request: pb.TokenRequest) -> pb.TokenReply:
        """Issue an access token bound to the request's proof key.

        Raises
        ------
        TokenRejected
            REFRESH_REUSED, TOKEN_REVOKED and the like; see `Registry.rotate`.
        EnrolmentRejected
            IDENTITY_INVALID for an unknown client or a bad or repeated identity proof.
        """
        # PostgreSQL takes no NUL, which no name has.
        known = "\0" not in request.client_id
        client = self._registry.client(request.client_id) if known else None
        if client is None:
            raise EnrolmentRejected(Code.IDENTITY_INVALID)
        jkt = thumbprint(request.proof_key)
        # First, because it may fail: then the refresh token, or the grant, is not spent.
        signer = self._token_keys.signer(lambda kid: bool(self._registry.revoked(kid=kid)))
        # Whether a client was revoked is told to whoever has proved to be it.
        if request.WhichOneof("grant") == "refresh_token":
            family, refresh_token = self._rotate(client, request.refresh_token, jkt)
        else:
            self._check_identity(client, request)
            if self._registry.revoked(client=client.client_id):
                raise TokenRejected(Code.TOKEN_REVOKED)
            family, refresh_token = self._start_family(client, jkt)
        token = signer.issue(
            issuer=self._token_keys.issuer,
            audience=self._token_keys.audience,
            client_id=client.client_id,
            scope=ROLE_SCOPES[client.role],
            jkt=jkt,
            clock=self._clock,
            rng=self._rng,
            ttl=self._config.token_ttl,
            jti_prefix=f"{family}.",
        )
        return pb.TokenReply(
            access_token=token, refresh_token=refresh_token, expires_in=self._config.token_ttl
        )

    def _rotate(self, client: Client, refresh_token: str, jkt: str) -> tuple[str, str]:
        successor = self._successor(refresh_token)
        now = self._clock.now()
        family = self._registry.rotate(refresh_token, successor, client.client_id, jkt, now)
        return family.family, successor

    def _start_family(self, client: Client, jkt: str) -> tuple[str, str]:
        family = Family(b64url(self._rng.bytes(_FAMILY_BYTES)), client.client_id, jkt)
        refresh_token = self._secret()
        now = self._clock.now()
        if abs(now - self._pruned) > _PRUNE_SECONDS:
            self._pruned = now
            self._registry.prune(now)
        self._registry.start_family(family, refresh_token, now, now + self._config.refresh_ttl)
        return family.family, refresh_token

    def _check_identity(self, client: Client, request: pb.TokenRequest) -> None:
        grant, now = request.identity, self._clock.now()
        verify_grant(
            client.client_id,
            grant.iat,
            grant.nonce,
            request.proof_key,
            grant.signature,
            client.identity_key,
            now,
        )
        if not self._nonces.use(grant.nonce.hex(), now):
            raise EnrolmentRejected(Code.IDENTITY_INVALID, "this identity proof was used before")

    def _successor(self, refresh_token: str) -> str:
        """Return what a refresh token is exchanged for: the same each time, known to nobody else.

        So a reply that was lost can be given again, though only digests are kept.
        """
        return b64url(hmac.digest(self._refresh_key, refresh_token.encode(), "sha256"))

    def _secret(self) -> str:
        return b64url(self._rng.bytes(_SECRET_BYTES))


def family_of(jti: str) -> str:
    """Return the refresh family an access token descends from: the part of jti before the dot."""
    return jti.partition(".")[0]


def create_ticket(
    registry: Registry, role: str, name: str, *, clock: Clock, rng: Rng, ttl: float = 24 * 3600.0
) -> str:
    """Create a single-use enrolment ticket.

    Parameters
    ----------
    registry : Registry
        The gateway's registry.
    role : str
        "client" or "server".
    name : str
        Beginning of the client id; letters, digits and ``._:@-``.
    clock, rng : Clock, Rng
        Time and randomness.
    ttl : float
        Seconds the ticket can be redeemed.

    Raises
    ------
    EnrolmentRejected
        IDENTITY_INVALID for an unknown role or an unusable name.
    """
    if role not in ROLE_SCOPES:
        raise EnrolmentRejected(Code.IDENTITY_INVALID, f"the roles are {', '.join(ROLE_SCOPES)}")
    if _NAME.fullmatch(name) is None:
        raise EnrolmentRejected(
            Code.IDENTITY_INVALID, "a name consists of up to 100 letters, digits and ._:@-"
        )
    ticket = b64url(rng.bytes(_SECRET_BYTES))
    registry.add_ticket(ticket, role, name, clock.now() + ttl)
    return ticket
