"""A strict front for compact JWS (RFC 7515): one spelling, few header members, the key decides.

General JOSE libraries accept duplicate members, embedded keys, key URLs and path-like key ids.
Everything of that kind is refused here before a signature is looked at, and the algorithm is the
key's: a token can only agree with it (RFC 8725, sections 3.1 and 3.11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from joserfc import jws as jose
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import Key, OctKey, import_key

from fl_protocol.canonical import parse_object
from fl_protocol.codes import Code, TokenRejected
from fl_protocol.encoding import b64url_decode
from fl_protocol.signatures import has_small_order

MAX_TOKEN_BYTES = 4096

_HEADER_MEMBERS = {"alg", "typ", "kid"}
_KEY_ID = re.compile(r"[A-Za-z0-9._@-]{1,128}")
# RFC 7518, sections 6.2.2 and 6.3.2; RFC 8037, section 2.
_PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth"}
_MIN_RSA_BITS = 2048
_ROCA_GENERATOR = 65537
_ROCA_PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)


class _Algorithm(NamedTuple):
    key_type: str
    curve: str | None = None
    min_key_bytes: int = 0


_ALGORITHMS: Mapping[str, _Algorithm] = {
    "EdDSA": _Algorithm("OKP", "Ed25519"),
    "ES256": _Algorithm("EC", "P-256"),
    "ES384": _Algorithm("EC", "P-384"),
    "ES512": _Algorithm("EC", "P-521"),
    "ES256K": _Algorithm("EC", "secp256k1"),  # RFC 8812
    # HMAC keys as long as the hash output (RFC 7518, section 3.2).
    "HS256": _Algorithm("oct", min_key_bytes=32),
    "HS384": _Algorithm("oct", min_key_bytes=48),
    "HS512": _Algorithm("oct", min_key_bytes=64),
    **{name: _Algorithm("RSA") for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
}


@dataclass(frozen=True)
class Compact:
    """The parts of a well-formed compact JWS; nothing is verified yet."""

    header: dict[str, Any]
    payload: bytes
    signing_input: bytes
    signature: bytes


def split_compact(token: str, max_bytes: int = MAX_TOKEN_BYTES) -> Compact:
    """Take a compact JWS apart.

    Raises
    ------
    ValueError
        Unless it is text of at most `max_bytes` of ASCII, three canonical base64url parts, and a
        header that is a JSON object without duplicate members.
    """
    if not isinstance(token, str) or len(token) > max_bytes or not token.isascii():
        raise ValueError("no text, too long or not ASCII")
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    header, payload, signature = (b64url_decode(part) for part in parts)
    signing_input = f"{parts[0]}.{parts[1]}".encode("ascii")
    return Compact(parse_object(header, max_bytes), payload, signing_input, signature)


class _OneAlgorithm(jose.JWSRegistry):
    """Allows the key's algorithm only.

    The stock registry warns at every call that the name "EdDSA" is deprecated (RFC 9864); with
    the curve fixed by the key, the name is not ambiguous here.
    """

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"algorithm {name} is not the key's")
        return self.algorithms[name]


class VerifyingKey:
    """One JSON Web Key, checked for verification use and bound to one algorithm.

    Parameters
    ----------
    jwk : mapping
        A JWK (RFC 7517). ``alg`` decides the algorithm; without it, the curve does. ``use`` and
        ``key_ops`` are honoured (sections 4.2 and 4.3). Private members beside the public ones are
        not used, but must belong to them.

    Raises
    ------
    TokenRejected
        ``TOKEN_UNKNOWN_KEY`` if the key may not verify signatures, is too weak, or does not name
        one algorithm.
    """

    def __init__(self, jwk: Mapping[str, Any]) -> None:
        self.algorithm = _algorithm_of(jwk)
        self.kid: str | None = jwk.get("kid")
        if not _may_verify(jwk) or not _strong_enough(jwk, self.algorithm):
            raise TokenRejected(Code.TOKEN_UNKNOWN_KEY)
        self._registry = _OneAlgorithm(algorithms=[self.algorithm])
        try:
            self._key = _public_key(jwk)
        except (JoseError, ValueError, TypeError) as error:
            raise TokenRejected(Code.TOKEN_UNKNOWN_KEY) from error

    def verify(self, token: str) -> Compact:
        """Check a token against this key.

        Raises
        ------
        TokenRejected
            ``TOKEN_MALFORMED``, ``TOKEN_UNKNOWN_KEY`` or ``TOKEN_SIGNATURE``.
        """
        parts = parse_token(token)
        if self.kid is not None and parts.header.get("kid", self.kid) != self.kid:
            raise TokenRejected(Code.TOKEN_UNKNOWN_KEY)
        if parts.header["alg"] != self.algorithm:
            raise TokenRejected(Code.TOKEN_SIGNATURE)
        try:
            jose.deserialize_compact(token, self._key, registry=self._registry)
        except (JoseError, ValueError, TypeError) as error:
            raise TokenRejected(Code.TOKEN_SIGNATURE) from error
        return parts


def parse_token(token: str) -> Compact:
    """Take a token apart and check its header against the allow-list {alg, typ, kid}.

    Raises
    ------
    TokenRejected
        ``TOKEN_MALFORMED``.
    """
    try:
        parts = split_compact(token)
    except ValueError as error:
        raise TokenRejected(Code.TOKEN_MALFORMED) from error
    header = parts.header
    if not header.keys() <= _HEADER_MEMBERS or "alg" not in header:
        raise TokenRejected(Code.TOKEN_MALFORMED)
    if not all(isinstance(value, str) for value in header.values()):
        raise TokenRejected(Code.TOKEN_MALFORMED)
    if "kid" in header and not _KEY_ID.fullmatch(header["kid"]):
        raise TokenRejected(Code.TOKEN_MALFORMED)
    return parts


def may_verify_as(asked: str, jwk: Mapping[str, Any]) -> bool:
    """Say whether a key that does not name an algorithm exactly still means no other.

    Two cases, neither of which leaves a choice of primitive to the token: an RSA key for PSS
    verifies with a longer hash (RFC 7520 signs PS384 with the key of its PS256 figures), and
    "ES521", the common misspelling of ES512 after its curve, is read as such on a P-521 key, which
    has no other algorithm (RFC 7518, section 3.4).
    """
    if not isinstance(jwk, Mapping):
        return False
    named = str(jwk.get("alg"))
    if jwk.get("crv") == "P-521":
        return (asked, named) == ("ES512", "ES521")
    names = [name for name in _ALGORITHMS if name.startswith("PS")]
    return asked in names and named in names and asked > named


def _algorithm_of(jwk: Mapping[str, Any]) -> str:
    if not isinstance(jwk, Mapping):
        raise TokenRejected(Code.TOKEN_UNKNOWN_KEY)
    wanted = jwk.get("alg")
    for name, rule in _ALGORITHMS.items():
        fits = jwk.get("kty") == rule.key_type and jwk.get("crv") == rule.curve
        if fits and (name == wanted or (wanted is None and rule.curve is not None)):
            return name
    raise TokenRejected(Code.TOKEN_UNKNOWN_KEY)


def _may_verify(jwk: Mapping[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return (
        jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and all(isinstance(operation, str) for operation in operations)
        and len(set(operations)) == len(operations)
        and "verify" in operations
    )


def _public_key(jwk: Mapping[str, Any]) -> Key:
    """Import what verifies; raises ValueError or joserfc's errors for a key that is none.

    Which half joserfc believes where the two differ depends on the key type.
    """
    key = import_key(dict(jwk))
    if isinstance(key, OctKey):
        return key
    public = import_key(
        {name: value for name, value in jwk.items() if name not in _PRIVATE_MEMBERS}
    )
    if key.public_key != public.public_key:
        raise ValueError("the private members are another key's")
    return public


def _strong_enough(jwk: Mapping[str, Any], algorithm: str) -> bool:
    rule = _ALGORITHMS[algorithm]
    try:
        if rule.key_type == "RSA":
            modulus = int.from_bytes(b64url_decode(jwk["n"]), "big")
            return modulus.bit_length() >= _MIN_RSA_BITS and not _has_roca_form(modulus)
        if jwk.get("crv") == "Ed25519":
            return not has_small_order(b64url_decode(jwk["x"]))
        return len(b64url_decode(jwk.get("k", ""))) >= rule.min_key_bytes
    except (KeyError, TypeError, ValueError):
        return False


def _has_roca_form(modulus: int) -> bool:
    """Say whether a modulus can be factored because of how its primes were made.

    They are powers of 65537 modulo a product of small primes (Nemec, Sys, Svenda, Klinec and
    Matyas, "The Return of Coppersmith's Attack", CCS 2017, section 2), and so is the modulus. A
    sound one is by chance with a probability of about 2**-27.
    """
    return all(modulus % prime in _powers(prime) for prime in _ROCA_PRIMES)


@cache
def _powers(prime: int) -> frozenset[int]:
    return frozenset(pow(_ROCA_GENERATOR, exponent, prime) for exponent in range(prime - 1))
