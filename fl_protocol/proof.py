"""Proof of possession per call: DPoP (RFC 9449) over gRPC.

``htm`` is always "POST" and ``htu`` the full gRPC method ("/package.Service/Method"), because that
is the request a gRPC call makes. ``ath`` binds the proof to the access token beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, ProofRejected
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.jws import split_compact
from fl_protocol.ports import Clock, Rng
from fl_protocol.replay import OneUse, ReplayMemory
from fl_protocol.signatures import is_signed_by
from fl_protocol.tokens import public_jwk

PROOF_TYPE = "dpop+jwt"
WINDOW = 30
# A proof dated 30 s ahead stays usable for 60 s after it is first seen.
SECONDS_USABLE = 2 * WINDOW
MAX_PROOF_BYTES = 2048

_METHOD = "POST"
_NONCE_DOMAIN = b"asynclave/dpop-nonce/v1\0"
_NONCE_SECONDS = 60
_NONCE_BYTES = 16
_JTI_BYTES = 16
_JTI = re.compile(r"[A-Za-z0-9_-]{16,64}")


def thumbprint(public_key: bytes) -> str:
    """Return the JWK thumbprint of a raw Ed25519 public key (RFC 7638, RFC 8037 appendix A.3)."""
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": b64url(public_key)}
    return b64url(hashlib.sha256(canonical.encode(jwk)).digest())


def make_proof(
    key: Ed25519PrivateKey,
    method: str,
    token: str | None,
    clock: Clock,
    rng: Rng,
    nonce: str | None = None,
) -> str:
    """Make a proof for one call.

    Parameters
    ----------
    key : Ed25519PrivateKey
        The proof key.
    method : str
        Full gRPC method, for example "/asynclave.v1.Gateway/SubmitUpdate".
    token : str or None
        The access token the proof accompanies; None when asking for one.
    clock, rng : Clock, Rng
        Time of issue and source of the proof's id.
    nonce : str, optional
        What the gateway gave out last.
    """
    header = {"alg": "EdDSA", "jwk": public_jwk(key), "typ": PROOF_TYPE}
    claims = {
        "htm": _METHOD,
        "htu": method,
        "iat": int(clock.now()),
        "jti": b64url(rng.bytes(_JTI_BYTES)),
    }
    if token is not None:
        claims["ath"] = _token_hash(token)
    if nonce is not None:
        claims["nonce"] = nonce
    text = f"{b64url(canonical.encode(header))}.{b64url(canonical.encode(claims))}"
    return f"{text}.{b64url(key.sign(text.encode('ascii')))}"


class ProofNonces:
    """Nonces that prove a proof to be of the last minutes (RFC 9449, section 8).

    Without them, whoever could use a key for a moment could make proofs for all time to come. There
    is one for each minute, which is good until the next has passed, and kept nowhere.

    Parameters
    ----------
    key : bytes
        Shared by the gateways of a federation.
    clock : Clock
        Says which minute it is.
    """

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key, self._clock = key, clock

    def current(self) -> str:
        """Return the nonce to give out."""
        return self._of(self._minute())

    def is_recent(self, nonce: object) -> bool:
        """Say whether it was given out lately, here or by a gateway whose clock is ahead."""
        minute = self._minute()
        return isinstance(nonce, str) and any(
            hmac.compare_digest(nonce.encode(), self._of(near).encode())
            for near in (minute, minute - 1, minute + 1)
        )

    def _minute(self) -> int:
        return int(self._clock.now() // _NONCE_SECONDS)

    def _of(self, minute: int) -> str:
        message = _NONCE_DOMAIN + minute.to_bytes(8, "big")
        return b64url(hmac.digest(self._key, message, "sha256")[:_NONCE_BYTES])


class ProofVerifier:
    """Verifies proofs and remembers their ids for as long as they could be used again.

    Parameters
    ----------
    clock : Clock
        Compared with the proof's time, 30 s either way.
    capacity : int
        The most ids remembered; a full memory refuses calls rather than forget a live id.
    seen : OneUse, optional
        What remembers ids, for `SECONDS_USABLE`, instead of this object alone.
    nonces : ProofNonces, optional
        Proofs must have one of these.
    """

    def __init__(
        self,
        clock: Clock,
        capacity: int = 100_000,
        *,
        seen: OneUse | None = None,
        nonces: ProofNonces | None = None,
    ) -> None:
        self._clock, self._nonces = clock, nonces
        self._seen = seen or ReplayMemory(SECONDS_USABLE, capacity)

    def verify(self, proof: str, method: str, token: str | None, jkt: str) -> None:
        """Check a proof for one call and use it up.

        Parameters
        ----------
        proof : str
            What the caller sent.
        method : str
            Full gRPC method of the call.
        token : str or None
            The access token beside it; None where no token is used.
        jkt : str
            Thumbprint of the key that must have made it.

        Raises
        ------
        ProofRejected
            ``PROOF_INVALID``, ``PROOF_REPLAYED``, or ``PROOF_NONCE`` for a good proof without a
            recent nonce.
        GatewayUnavailable
            ``OVERLOADED`` when too many live proofs are remembered.
        """
        claims = _open(proof, jkt)
        nonce = claims.pop("nonce", None) if self._nonces else None
        wanted: dict[str, Any] = {"htm": _METHOD, "htu": method}
        if token is not None:
            wanted["ath"] = _token_hash(token)
        if claims.keys() != {*wanted, "iat", "jti"}:
            raise ProofRejected(Code.PROOF_INVALID)
        if any(claims[name] != value for name, value in wanted.items()):
            raise ProofRejected(Code.PROOF_INVALID)
        if not isinstance(claims["jti"], str) or not _JTI.fullmatch(claims["jti"]):
            raise ProofRejected(Code.PROOF_INVALID)
        now = self._clock.now()
        if type(claims["iat"]) is not int or abs(now - claims["iat"]) > WINDOW:
            raise ProofRejected(Code.PROOF_INVALID)
        if self._nonces and not self._nonces.is_recent(nonce):
            raise ProofRejected(Code.PROOF_NONCE, nonce=self._nonces.current())
        if not self._seen.use(f"{jkt}.{claims['jti']}", now):
            raise ProofRejected(Code.PROOF_REPLAYED)


def _open(proof: str, jkt: str) -> dict[str, Any]:
    """Check form, key and signature; return the claims."""
    try:
        parts = split_compact(proof, MAX_PROOF_BYTES)
        key = _key_of(parts.header)
        claims = canonical.parse_object(parts.payload, MAX_PROOF_BYTES)
    except (CanonicalError, ValueError) as error:
        raise ProofRejected(Code.PROOF_INVALID) from error
    if not hmac.compare_digest(thumbprint(key), jkt):
        raise ProofRejected(Code.PROOF_INVALID)
    if not is_signed_by(b"", parts.signing_input, parts.signature, key):
        raise ProofRejected(Code.PROOF_INVALID)
    return claims


def _key_of(header: dict[str, Any]) -> bytes:
    jwk = header.get("jwk")
    if header.keys() != {"alg", "jwk", "typ"} or not isinstance(jwk, dict):
        raise ValueError("header members")
    # An exact member set also refuses a private key sent along by mistake.
    if jwk.keys() != {"crv", "kty", "x"} or not isinstance(jwk["x"], str):
        raise ValueError("key members")
    if (header["alg"], header["typ"]) != ("EdDSA", PROOF_TYPE):
        raise ValueError("header values")
    if (jwk["crv"], jwk["kty"]) != ("Ed25519", "OKP"):
        raise ValueError("key type")
    return b64url_decode(jwk["x"])


def _token_hash(token: str) -> str:
    return b64url(hashlib.sha256(token.encode("ascii")).digest())
