import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import GatewayUnavailable, ProofRejected
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.proof import ProofNonces, ProofVerifier, make_proof, thumbprint
from tests.protocol.support import CountedRng
from tests.support.clock import NOW, SetClock

KEY = Ed25519PrivateKey.from_private_bytes(b"\x21" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x22" * 32)
JKT = thumbprint(KEY.public_key().public_bytes_raw())
METHOD = "/asynclave.v1.Gateway/SubmitUpdate"
TOKEN = "header.claims.signature"


def proof(key=KEY, method=METHOD, token=TOKEN, clock=None, rng=None):
    return make_proof(key, method, token, clock or SetClock(), rng or CountedRng())


def altered(header=None, claims=None, key=KEY):
    """Sign a proof again after changing members; ``...`` removes one."""
    parts = [json.loads(b64url_decode(part)) for part in proof().split(".")[:2]]
    for members, changes in zip(parts, (header or {}, claims or {}), strict=True):
        members.update(changes)
        for name in [name for name, value in members.items() if value is ...]:
            del members[name]
    text = ".".join(b64url(json.dumps(members).encode()) for members in parts)
    return f"{text}.{b64url(key.sign(text.encode()))}"


def refused(code):
    return pytest.raises(ProofRejected, match=rf"^{code}:")


def test_thumbprint_is_that_of_the_standard():
    """RFC 8037, appendix A.3."""
    key = b64url_decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    assert thumbprint(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_accepts_a_proof_for_its_call_once():
    verifier, made = ProofVerifier(SetClock()), proof()
    verifier.verify(made, METHOD, TOKEN, JKT)
    with refused("PROOF_REPLAYED"):
        verifier.verify(made, METHOD, TOKEN, JKT)


def test_accepts_a_proof_without_a_token_only_where_none_is_used():
    ProofVerifier(SetClock()).verify(proof(token=None), METHOD, None, JKT)
    with refused("PROOF_INVALID"):
        ProofVerifier(SetClock()).verify(proof(token=None), METHOD, TOKEN, JKT)
    with refused("PROOF_INVALID"):
        ProofVerifier(SetClock()).verify(proof(), METHOD, None, JKT)


@pytest.mark.parametrize(
    "made",
    [
        proof(key=OTHER),
        proof(method="/asynclave.v1.Gateway/OpenRun"),
        proof(token="another.access.token"),
        "",
        "a.b.c",
        proof()[:-1],
        proof() + "A" * 4096,
        altered(key=OTHER),
        altered(header={"typ": "JWT"}),
        altered(header={"alg": "none"}),
        altered(header={"kid": "key-1"}),
        altered(header={"jwk": ...}),
        altered(header={"jwk": "key"}),
        altered(header={"jwk": {"crv": "Ed25519", "kty": "OKP", "x": 1}}),
        altered(
            header={
                "jwk": {
                    "crv": "Ed25519",
                    "kty": "OKP",
                    "x": b64url(KEY.public_key().public_bytes_raw()),
                    "d": b64url(bytes(32)),
                }
            }
        ),
        altered(claims={"htm": "GET"}),
        altered(claims={"ath": ...}),
        altered(claims={"jti": ...}),
        altered(claims={"jti": "short"}),
        altered(claims={"jti": 7}),
        altered(claims={"iat": True}),
        altered(claims={"iat": NOW}),
        altered(claims={"nonce": "extra"}),
    ],
)
def test_refuses_a_proof_that_does_not_fit(made):
    with refused("PROOF_INVALID"):
        ProofVerifier(SetClock()).verify(made, METHOD, TOKEN, JKT)


@pytest.mark.parametrize("age", [-31, 31])
def test_refuses_a_stale_or_future_proof(age):
    made = proof(clock=SetClock(NOW - age))
    with refused("PROOF_INVALID"):
        ProofVerifier(SetClock()).verify(made, METHOD, TOKEN, JKT)


def test_remembers_a_proof_from_the_future_as_long_as_it_is_usable():
    clock = SetClock()
    verifier, made = ProofVerifier(clock), proof(clock=SetClock(NOW + 30))
    verifier.verify(made, METHOD, TOKEN, JKT)
    clock.time = NOW + 60
    with refused("PROOF_REPLAYED"):
        verifier.verify(made, METHOD, TOKEN, JKT)


def test_full_memory_refuses_instead_of_forgetting_and_frees_itself_with_time():
    clock, rng = SetClock(), CountedRng()
    verifier = ProofVerifier(clock, capacity=2)
    for _ in range(2):
        verifier.verify(proof(rng=rng, clock=clock), METHOD, TOKEN, JKT)
    with pytest.raises(GatewayUnavailable, match=r"^OVERLOADED:"):
        verifier.verify(proof(rng=rng, clock=clock), METHOD, TOKEN, JKT)
    clock.time += 61
    verifier.verify(proof(rng=rng, clock=clock), METHOD, TOKEN, JKT)


def test_a_proof_has_a_nonce_of_the_last_minutes():
    clock, rng = SetClock(NOW), CountedRng()
    nonces = ProofNonces(bytes(32), clock)
    verifier = ProofVerifier(clock, nonces=nonces)
    first = nonces.current()

    def verify(nonce):
        made = make_proof(KEY, METHOD, TOKEN, clock, rng, nonce)
        verifier.verify(made, METHOD, TOKEN, JKT)

    for nonce in (None, "", "another", ProofNonces(b"\1" * 32, clock).current()):
        with pytest.raises(ProofRejected, match=r"^PROOF_NONCE") as refusal:
            verify(nonce)
        assert refusal.value.nonce == first
    verify(first)
    clock.time += 119
    verify(first)
    # A gateway whose clock is behind takes what one whose clock is ahead gave out.
    verify(ProofNonces(bytes(32), SetClock(clock.time + 60)).current())
    clock.time += 1
    with refused("PROOF_NONCE"):
        verify(first)
    assert len({first, nonces.current(), ProofNonces(bytes(32), SetClock(NOW)).current()}) == 2


def test_a_nonce_nobody_asked_for_is_refused():
    made = make_proof(KEY, METHOD, TOKEN, SetClock(), CountedRng(), "nonce")
    with refused("PROOF_INVALID"):
        ProofVerifier(SetClock()).verify(made, METHOD, TOKEN, JKT)


def test_refused_proofs_take_no_memory():
    verifier = ProofVerifier(SetClock(), capacity=1)
    for _ in range(3):
        with refused("PROOF_INVALID"):
            verifier.verify(proof(key=OTHER), METHOD, TOKEN, JKT)
    verifier.verify(proof(), METHOD, TOKEN, JKT)
