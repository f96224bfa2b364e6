import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws as jose
from joserfc.jwk import ECKey, OKPKey, RSAKey

from fl_protocol.codes import TokenRejected
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.jws import VerifyingKey
from fl_protocol.tokens import TokenSigner, TokenVerifier, verify_compact_jws
from tests.protocol.support import CountedRng
from tests.support.clock import NOW, SetClock

KEY = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x12" * 32)
SIGNER = TokenSigner(KEY, "key-1")
JWKS = {"keys": [SIGNER.jwk()]}
JKT = "j" * 43
NOT_TIMES = ["1800000000", True, None, -1, 2**60]


def claims(**changes):
    members = {
        "iss": "https://issuer",
        "aud": "gateway",
        "sub": "client-7",
        "client_id": "client-7",
        "iat": int(NOW),
        "nbf": int(NOW),
        "exp": int(NOW) + 300,
        "jti": "id-1",
        "scope": "update:submit attest:read",
        "cnf": {"jkt": JKT},
    }
    members.update(changes)
    return {name: value for name, value in members.items() if value is not ...}


def compact(header, payload, key=KEY):
    """Sign raw header and payload bytes, however wrong they are."""
    text = f"{b64url(header)}.{b64url(payload)}"
    return f"{text}.{b64url(key.sign(text.encode()))}"


def signed(members=None, key=KEY, **header):
    head = {"alg": "EdDSA", "kid": "key-1", "typ": "at+jwt", **header}
    head = {name: value for name, value in head.items() if value is not ...}
    return compact(json.dumps(head).encode(), json.dumps(members or claims()).encode(), key)


def verifier(clock=None, jwks=JWKS):
    return TokenVerifier(jwks, "https://issuer", "gateway", clock or SetClock())


def issue(clock=None, **changes):
    values = {
        "issuer": "https://issuer",
        "audience": "gateway",
        "client_id": "client-7",
        "scope": "update:submit attest:read",
        "jkt": JKT,
    }
    return SIGNER.issue(**{**values, **changes}, clock=clock or SetClock(), rng=CountedRng())


def refused(code):
    return pytest.raises(TokenRejected, match=rf"^{code}:")


def test_reads_back_what_the_issuer_said():
    read = verifier().verify(issue(), "attest:read")
    assert (read.client_id, read.jkt) == ("client-7", JKT)
    assert read.exp - read.iat == 300
    assert read.scopes == {"update:submit", "attest:read"}


def test_refuses_a_lifetime_above_the_cap():
    with pytest.raises(ValueError):
        issue(ttl=901)
    with refused("TOKEN_CLAIMS"):
        verifier().verify(signed(claims(exp=int(NOW) + 901)))


def test_refuses_a_token_signed_by_another_key():
    with refused("TOKEN_SIGNATURE"):
        verifier().verify(signed(key=OTHER))


def test_refuses_a_change_in_any_part():
    token = issue()
    for part in range(3):
        parts = token.split(".")
        raw = bytearray(b64url_decode(parts[part]))
        raw[len(raw) // 2] ^= 1
        parts[part] = b64url(bytes(raw))
        with pytest.raises(TokenRejected):
            verifier().verify(".".join(parts))


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "NONE", "HS256", "ES256", "RS256", ""])
def test_refuses_an_algorithm_other_than_the_keys(alg):
    with refused("TOKEN_SIGNATURE"):
        verifier().verify(signed(alg=alg))


def test_refuses_hmac_keyed_with_the_public_key():
    import hashlib
    import hmac

    text = signed(alg="HS256").rsplit(".", 1)[0]
    mac = hmac.digest(KEY.public_key().public_bytes_raw(), text.encode(), hashlib.sha256)
    with refused("TOKEN_SIGNATURE"):
        verifier().verify(f"{text}.{b64url(mac)}")


@pytest.mark.parametrize(
    "mangle",
    [
        lambda token: token + "=",
        lambda token: token + "\n",
        lambda token: " " + token,
        lambda token: token + ".",
        lambda token: token + ".e30",
        lambda token: token.rsplit(".", 1)[0],
        lambda token: token.replace(".", "..", 1),
        lambda token: "",
        lambda token: "..",
        lambda token: "ü" + token,
        lambda token: json.dumps({"payload": token}),
        lambda token: token + "A" * 1_000_000,
        lambda token: token[:-1] + chr(ord(token[-1]) + 1),
    ],
)
def test_refuses_another_spelling(mangle):
    with refused("TOKEN_MALFORMED"):
        verifier().verify(mangle(issue()))


@pytest.mark.parametrize("signature", ["", "AA", b64url(bytes(63)), b64url(bytes(65))])
def test_refuses_a_signature_of_wrong_length(signature):
    with refused("TOKEN_SIGNATURE"):
        verifier().verify(f"{issue().rsplit('.', 1)[0]}.{signature}")


def test_refuses_duplicate_members():
    header, payload = b'{"alg":"EdDSA","kid":"key-1","typ":"at+jwt"}', json.dumps(claims()).encode()
    verifier().verify(compact(header, payload))
    with refused("TOKEN_MALFORMED"):
        verifier().verify(compact(header[:-1] + b',"alg":"EdDSA"}', payload))
    with refused("TOKEN_CLAIMS"):
        verifier().verify(compact(header, payload[:-1] + b',"sub":"client-7"}'))


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": {"kty": "OKP"}},
        {"jku": "https://evil"},
        {"x5u": "https://evil"},
        {"x5c": []},
        {"crit": ["b64"]},
        {"b64": False},
        {"cty": "JWT"},
        {"typ": "JWT"},
        {"typ": ...},
        {"kid": ...},
        {"kid": "../../etc/passwd"},
        {"kid": "key-1\0"},
        {"kid": ["key-1"]},
        {"kid": "k" * 129},
        {"alg": None},
        {"alg": ...},
        {"alg": ["EdDSA"]},
    ],
    ids=str,
)
def test_refuses_a_header_outside_the_allow_list(header):
    with refused("TOKEN_MALFORMED"):
        verifier().verify(signed(**header))


def test_refuses_an_unknown_and_a_retired_key():
    with refused("TOKEN_UNKNOWN_KEY"):
        verifier().verify(signed(kid="key-9"))
    successor = TokenSigner(OTHER, "key-2")
    verifier(jwks={"keys": [SIGNER.jwk(), successor.jwk()]}).verify(issue())
    with refused("TOKEN_UNKNOWN_KEY"):
        verifier(jwks={"keys": [successor.jwk()]}).verify(issue())


def test_expires_with_thirty_seconds_of_tolerance():
    clock = SetClock()
    token = issue(clock)
    clock.time = NOW + 329
    verifier(clock).verify(token)
    clock.time = NOW + 330
    with refused("TOKEN_EXPIRED"):
        verifier(clock).verify(token)


def test_is_not_valid_before_its_time():
    verifier(SetClock(NOW - 30)).verify(issue())
    with refused("TOKEN_NOT_YET_VALID"):
        verifier(SetClock(NOW - 31)).verify(issue())
    with refused("TOKEN_NOT_YET_VALID"):
        verifier().verify(signed(claims(nbf=int(NOW) + 60)))


@pytest.mark.parametrize("name", ["iat", "nbf", "exp"])
@pytest.mark.parametrize("value", [*NOT_TIMES, 1.8e9, 1e300, float("nan")], ids=str)
def test_refuses_a_time_that_is_not_a_sensible_integer(name, value):
    with refused("TOKEN_CLAIMS"):
        verifier().verify(signed(claims(**{name: value})))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://other"},
        {"aud": "other"},
        {"aud": ["gateway"]},
        {"sub": "client-8"},
        {"jti": ...},
        {"jti": ""},
        {"scope": ["update:submit"]},
        {"scope": "update:submit  attest:read"},
        {"cnf": ...},
        {"cnf": {}},
        {"cnf": {"jkt": "short"}},
        {"cnf": {"jkt": JKT, "x5t": "a"}},
        {"admin": True},
        {"exp": int(NOW) - 1, "nbf": int(NOW)},
    ],
    ids=str,
)
def test_refuses_claims_outside_the_profile(changes):
    with refused("TOKEN_CLAIMS"):
        verifier().verify(signed(claims(**changes)))


def test_refuses_a_scope_that_was_not_granted():
    for scope in ("run:manage", "update", "attest:read update:submit"):
        with refused("TOKEN_SCOPE"):
            verifier().verify(issue(), scope)


def test_key_set_refuses_repeated_or_missing_kids():
    nameless = {name: value for name, value in SIGNER.jwk().items() if name != "kid"}
    for keys in ([SIGNER.jwk(), SIGNER.jwk()], [nameless]):
        with pytest.raises(ValueError, match="kid"):
            verifier(jwks={"keys": keys})


@pytest.mark.parametrize(
    "jwk",
    [
        {**SIGNER.jwk(), "use": "enc"},
        {**SIGNER.jwk(), "key_ops": ["sign"]},
        {**SIGNER.jwk(), "key_ops": "verify"},
        {**SIGNER.jwk(), "key_ops": ["verify", "verify"]},
        {**SIGNER.jwk(), "key_ops": ["verify", "sign", "sign"]},
        {**SIGNER.jwk(), "key_ops": ["verify", ["sign"]]},
        {**SIGNER.jwk(), "alg": "ES256"},
        {**SIGNER.jwk(), "crv": "Ed448"},
        {"kty": "oct", "alg": "HS256", "k": b64url(b"short")},
        {"kty": "oct", "k": b64url(bytes(32))},
        {"kty": "EdDSA"},
        {},
        [SIGNER.jwk()],
        "key-1",
        None,
    ],
    ids=str,
)
def test_refuses_a_key_that_may_not_verify(jwk):
    with refused("TOKEN_UNKNOWN_KEY"):
        VerifyingKey(jwk).verify(issue())
    with refused("TOKEN_UNKNOWN_KEY"):
        verify_compact_jws(issue(), jwk)
    with refused("TOKEN_UNKNOWN_KEY"):
        verifier(jwks={"keys": [jwk]})


@pytest.mark.parametrize("token", [None, 3, 0.5, b"a.b.c", [], {}, ("a", "b", "c")], ids=str)
def test_refuses_a_token_that_is_no_text(token):
    with refused("TOKEN_MALFORMED"):
        verify_compact_jws(token, SIGNER.jwk())
    with refused("TOKEN_MALFORMED"):
        verifier().verify(token)


@pytest.mark.parametrize("jwks", [None, [], {}, {"keys": None}, {"keys": SIGNER.jwk()}], ids=str)
def test_refuses_a_key_set_that_lists_no_keys(jwks):
    with pytest.raises(ValueError, match="lists keys"):
        verifier(jwks=jwks)


def test_refuses_a_weak_rsa_key():
    with pytest.warns(UserWarning, match="2048"):
        key = RSAKey.import_key(rsa.generate_private_key(65537, 1024).public_key())
    with refused("TOKEN_UNKNOWN_KEY"):
        VerifyingKey({**key.as_dict(private=False), "alg": "RS256"}).verify(issue())


PRIVATE = {
    "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
    "ES256": lambda: ECKey.generate_key("P-256"),
    "RS256": lambda: RSAKey.generate_key(2048),
}


def token_of(key, algorithm):
    registry = jose.JWSRegistry(algorithms=[algorithm])
    return jose.serialize_compact({"alg": algorithm}, b"content", key, registry=registry)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", PRIVATE)
def test_refuses_a_key_whose_private_half_is_another_keys(algorithm):
    own, other = PRIVATE[algorithm](), PRIVATE[algorithm]()
    whole = {**own.as_dict(private=True), "alg": algorithm}
    assert verify_compact_jws(token_of(own, algorithm), whole) == b"content"
    mixed = {**other.as_dict(private=True), **own.as_dict(private=False), "alg": algorithm}
    for signer in (own, other):
        with refused("TOKEN_UNKNOWN_KEY"):
            verify_compact_jws(token_of(signer, algorithm), mixed)


@pytest.mark.parametrize("x", ["", "Ag", b64url(KEY.public_key().public_bytes_raw()[:31])])
def test_refuses_a_public_half_of_wrong_length_beside_its_private_one(x):
    jwk = {**SIGNER.jwk(), "x": x, "d": b64url(KEY.private_bytes_raw())}
    with refused("TOKEN_UNKNOWN_KEY"):
        verify_compact_jws(issue(), jwk)


def test_refuses_an_ecdsa_signature_of_zeros():
    key = ECKey.import_key(ec.generate_private_key(ec.SECP256R1()).public_key())
    text = b64url(b'{"alg":"ES256"}') + "." + b64url(b"{}")
    with refused("TOKEN_SIGNATURE"):
        VerifyingKey(key.as_dict(private=False)).verify(f"{text}.{b64url(bytes(64))}")


def ecdsa(curve, algorithm):
    key = ECKey.import_key(ec.generate_private_key(curve))
    token = jose.serialize_compact({"alg": algorithm}, b"content", key, algorithms=[algorithm])
    return token, key.as_dict(private=False)


@pytest.mark.parametrize(
    ("curve", "algorithm"),
    [
        (ec.SECP256R1, "ES256"),
        (ec.SECP384R1, "ES384"),
        (ec.SECP521R1, "ES512"),
        (ec.SECP256K1, "ES256K"),
    ],
)
def test_verifies_every_registered_ecdsa(curve, algorithm):
    token, jwk = ecdsa(curve(), algorithm)
    for key in (jwk, {**jwk, "alg": algorithm}):
        assert verify_compact_jws(token, key) == b"content"


def test_reads_es521_as_es512_on_the_only_curve_it_can_mean_but_not_for_access_tokens():
    token, jwk = ecdsa(ec.SECP521R1(), "ES512")
    assert verify_compact_jws(token, {**jwk, "alg": "ES521"}) == b"content"
    with refused("TOKEN_UNKNOWN_KEY"):
        VerifyingKey({**jwk, "alg": "ES521"})


@pytest.mark.parametrize(
    ("curve", "algorithm", "named"),
    [
        (ec.SECP256R1, "ES256", "ES521"),
        (ec.SECP256R1, "ES256", "ES512"),
        (ec.SECP521R1, "ES512", "ES256"),
        (ec.SECP521R1, "ES512", "RS512"),
        (ec.SECP521R1, "ES512", ""),
    ],
)
def test_refuses_a_key_whose_algorithm_is_not_its_curves(curve, algorithm, named):
    token, jwk = ecdsa(curve(), algorithm)
    with refused("TOKEN_UNKNOWN_KEY"):
        verify_compact_jws(token, {**jwk, "alg": named})


def test_time_and_scope_of_a_token_seen_before_are_looked_at_again():
    clock = SetClock()
    known, token = verifier(clock), signed()
    assert known.verify(token, "update:submit") == known.verify(token)
    with pytest.raises(TokenRejected, match="TOKEN_SCOPE"):
        known.verify(token, "run:manage")
    clock.sleep(331)
    with pytest.raises(TokenRejected, match="TOKEN_EXPIRED"):
        known.verify(token, "update:submit")
