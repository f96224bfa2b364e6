"""Access tokens: the JWT profile of RFC 9068 narrowed to Ed25519, bound to a proof key (RFC 9449).

``typ`` is "at+jwt", the lifetime at most 15 minutes, times are integers, and ``cnf.jkt`` names the
key whose proof of possession must come with every call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, TokenRejected
from fl_protocol.encoding import b64url
from fl_protocol.jws import (
    MAX_TOKEN_BYTES,
    VerifyingKey,
    may_verify_as,
    parse_token,
)
from fl_protocol.ports import Clock, Rng

TOKEN_TYPE = "at+jwt"
DEFAULT_TTL = 300
MAX_TTL = 900
# Seconds in which a spent refresh token may be sent again by its proof key.
REFRESH_GRACE = 30
SKEW = 30

_JTI_BYTES = 16
_TEXT = re.compile(r"[\x21-\x7e]{1,256}")
_SCOPE = re.compile(r"[a-z:]{1,64}( [a-z:]{1,64}){0,15}")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_PATTERNS = {
    **{name: _TEXT for name in ("iss", "aud", "sub", "client_id", "jti")},
    "scope": _SCOPE,
}
_TIMES = ("iat", "nbf", "exp")
_MAX_TIME = 2**53
# Tokens of at most 4 kB; one lives 15 minutes at most.
_REMEMBERED = 1024


@dataclass(frozen=True)
class Claims:
    """What a verified access token says; times in Unix seconds.

    ``jkt`` is the RFC 7638 thumbprint of the proof key.
    """

    iss: str
    aud: str
    sub: str
    client_id: str
    iat: int
    nbf: int
    exp: int
    jti: str
    scope: str
    jkt: str

    @property
    def scopes(self) -> frozenset[str]:
        """The scope values."""
        return frozenset(self.scope.split(" "))


class TokenSigner:
    """Issues access tokens with one Ed25519 key.

    Parameters
    ----------
    key : Ed25519PrivateKey
        The issuer's token-signing key.
    kid : str
        The key's id in the published key set.
    """

    def __init__(self, key: Ed25519PrivateKey, kid: str) -> None:
        self._key = key
        self.kid = kid

    def jwk(self) -> dict[str, str]:
        """Return the public key for the key set."""
        return {**public_jwk(self._key), "alg": "EdDSA", "use": "sig", "kid": self.kid}

    def issue(
        self,
        *,
        issuer: str,
        audience: str,
        client_id: str,
        scope: str,
        jkt: str,
        clock: Clock,
        rng: Rng,
        ttl: int = DEFAULT_TTL,
        jti_prefix: str = "",
    ) -> str:
        """Sign a token that is valid from now for `ttl` seconds (at most 900).

        ``jti`` is random after `jti_prefix`, by which an issuer can revoke a group of tokens.

        Raises
        ------
        ValueError
            For a lifetime outside (0, 900].
        """
        if not 0 < ttl <= MAX_TTL:
            raise ValueError(f"ttl must be in (0, {MAX_TTL}] seconds")
        now = int(clock.now())
        return self.sign(
            {
                "iss": issuer,
                "aud": audience,
                "sub": client_id,
                "client_id": client_id,
                "iat": now,
                "nbf": now,
                "exp": now + ttl,
                "jti": jti_prefix + b64url(rng.bytes(_JTI_BYTES)),
                "scope": scope,
                "cnf": {"jkt": jkt},
            }
        )

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Sign claims as they are, as a compact JWS."""
        header = {"alg": "EdDSA", "kid": self.kid, "typ": TOKEN_TYPE}
        text = f"{b64url(canonical.encode(header))}.{b64url(canonical.encode(dict(claims)))}"
        return f"{text}.{b64url(self._key.sign(text.encode('ascii')))}"


class TokenVerifier:
    """Verifies access tokens of one issuer for one audience.

    Parameters
    ----------
    jwks : mapping
        A JWK set; see `read_key_set`.
    issuer, audience : str
        The only accepted ``iss`` and ``aud``.
    clock : Clock
        Compared with the token's times, with 30 s of tolerance.

    Raises
    ------
    ValueError
        The key set is ambiguous.
    TokenRejected
        ``TOKEN_UNKNOWN_KEY`` for a key set with an unusable or weak key.
    """

    def __init__(self, jwks: Mapping[str, Any], issuer: str, audience: str, clock: Clock) -> None:
        self._keys = read_key_set(jwks)
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        # A caller uses its token again and again: signature and form of the same text stay as they
        # were found, while times and scope are looked at each time.
        self._signed_claims = lru_cache(_REMEMBERED)(self._read)

    def verify(self, token: str, required_scope: str | None = None) -> Claims:
        """Verify a token and return its claims.

        Raises
        ------
        TokenRejected
            ``TOKEN_MALFORMED``, ``TOKEN_UNKNOWN_KEY``, ``TOKEN_SIGNATURE``, ``TOKEN_CLAIMS``,
            ``TOKEN_EXPIRED``, ``TOKEN_NOT_YET_VALID`` or ``TOKEN_SCOPE``.
        """
        if not isinstance(token, str):
            raise TokenRejected(Code.TOKEN_MALFORMED)
        claims = self._signed_claims(token)
        self._check_time(claims)
        if (claims.iss, claims.aud) != (self._issuer, self._audience):
            raise TokenRejected(Code.TOKEN_CLAIMS)
        if required_scope is not None and required_scope not in claims.scopes:
            raise TokenRejected(Code.TOKEN_SCOPE)
        return claims

    def _read(self, token: str) -> Claims:
        header = parse_token(token).header
        if header.get("typ") != TOKEN_TYPE or "kid" not in header:
            raise TokenRejected(Code.TOKEN_MALFORMED)
        key = self._keys.get(header["kid"])
        if key is None:
            raise TokenRejected(Code.TOKEN_UNKNOWN_KEY)
        return _read_claims(key.verify(token).payload)

    def _check_time(self, claims: Claims) -> None:
        now = self._clock.now()
        if now >= claims.exp + SKEW:
            raise TokenRejected(Code.TOKEN_EXPIRED)
        if max(claims.nbf, claims.iat) > now + SKEW:
            raise TokenRejected(Code.TOKEN_NOT_YET_VALID)


def verify_compact_jws(token: str, jwk: Mapping[str, Any]) -> bytes:
    """Verify a compact JWS of any kind and return its payload.

    The key decides: its ``alg``, ``use`` and ``key_ops`` are honoured, and no header member but
    ``alg``, ``typ`` and ``kid`` is accepted. For RSA keys ``alg`` names the padding and the
    shortest hash, as in the examples of RFC 7520: a PS256 key verifies PS384, never PS256 with a
    PS384 key or RS256 with either. "ES521" on a P-521 key is read as ES512. Access tokens are held
    to exactly the key's algorithm (RFC 8725, section 3.1); see `TokenVerifier`.

    Every part must be base64url in its one spelling, without padding or any other character
    (RFC 7515, section 2); the header may be any spelling of its JSON object.

    Parameters
    ----------
    token : str
        The compact serialisation, at most 4096 characters.
    jwk : mapping
        The only key looked at (RFC 7517).

    Raises
    ------
    TokenRejected
        ``TOKEN_MALFORMED``, ``TOKEN_UNKNOWN_KEY`` or ``TOKEN_SIGNATURE``.
    """
    asked = parse_token(token).header["alg"]
    if may_verify_as(asked, jwk):
        jwk = {**jwk, "alg": asked}
    return VerifyingKey(jwk).verify(token).payload


def public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    """Return the bare public JWK of an Ed25519 key (RFC 8037, section 2)."""
    raw = key.public_key().public_bytes_raw()
    return {"crv": "Ed25519", "kty": "OKP", "x": b64url(raw)}


def read_key_set(jwks: Mapping[str, Any]) -> dict[str, VerifyingKey]:
    """Read a JWK set (RFC 7517, section 5) by ``kid``.

    Raises
    ------
    ValueError
        There is no list of keys, a ``kid`` is missing or repeated, or secret keys stand beside
        public ones: whoever publishes the set would publish the secret, or take one kind for the
        other.
    TokenRejected
        ``TOKEN_UNKNOWN_KEY`` for an unusable or weak key.
    """
    listed = jwks.get("keys") if isinstance(jwks, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError("a key set lists keys")
    keys: dict[str, VerifyingKey] = {}
    for jwk in listed:
        key = VerifyingKey(jwk)
        if key.kid is None or key.kid in keys:
            raise ValueError("every key of a key set needs its own kid")
        keys[key.kid] = key
    if len({jwk["kty"] == "oct" for jwk in listed}) > 1:
        raise ValueError("a key set holds secret or public keys, not both")
    return keys


def _read_claims(payload: bytes) -> Claims:
    try:
        members = canonical.parse_object(payload, MAX_TOKEN_BYTES)
    except CanonicalError as error:
        raise TokenRejected(Code.TOKEN_CLAIMS) from error
    confirmation = members.pop("cnf", None)
    if members.keys() != {*_PATTERNS, *_TIMES} or not _is_confirmation(confirmation):
        raise TokenRejected(Code.TOKEN_CLAIMS)
    texts_fit = all(_fits(pattern, members[name]) for name, pattern in _PATTERNS.items())
    times_fit = all(
        type(members[name]) is int and 0 <= members[name] < _MAX_TIME for name in _TIMES
    )
    if not texts_fit or not times_fit or members["sub"] != members["client_id"]:
        raise TokenRejected(Code.TOKEN_CLAIMS)
    claims = Claims(**members, jkt=confirmation["jkt"])
    if not 0 < claims.exp - claims.iat <= MAX_TTL or claims.nbf > claims.exp:
        raise TokenRejected(Code.TOKEN_CLAIMS)
    return claims


def _is_confirmation(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"jkt"} and _fits(_THUMBPRINT, value["jkt"])


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
