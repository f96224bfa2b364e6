import stat

import pytest

from fl_protocol.codes import EnrolmentRejected, TokenRejected
from fl_protocol.encoding import b64url
from fl_protocol.identity import (
    Enrolment,
    Identity,
    IdentityStore,
    verify_enrolment,
    verify_grant,
)
from fl_protocol.jws import VerifyingKey
from fl_protocol.ports import SystemRng
from fl_protocol.signatures import has_small_order, is_signed_by
from fl_protocol.token_store import Tokens
from tests.protocol.support import CountedRng
from tests.support.clock import NOW

NONCE = b"n" * 16


def refused():
    return pytest.raises(EnrolmentRejected, match=r"^IDENTITY_INVALID:")


def test_store_returns_the_same_keys_to_the_next_process(tmp_path):
    first = IdentityStore(tmp_path / "node").load_or_create(CountedRng())
    second = IdentityStore(tmp_path / "node").load_or_create(CountedRng("other"))
    assert first.public_identity_key == second.public_identity_key
    assert first.jkt == second.jkt
    assert first.public_identity_key != first.public_proof_key


def test_store_returns_the_enrolment_and_none_before_it(tmp_path):
    store = IdentityStore(tmp_path)
    assert store.load() is None
    assert store.load_enrolment() is None
    store.save_enrolment(Enrolment("client-7", b"\x00statement"))
    assert IdentityStore(tmp_path).load_enrolment() == Enrolment("client-7", b"\x00statement")


def test_stored_files_are_private_and_leave_no_temporary_files(tmp_path):
    store = IdentityStore(tmp_path)
    identity = store.load_or_create(CountedRng())
    store.save_enrolment(Enrolment("client-7", b"statement"))
    store.tokens.save(Tokens(identity.jkt, "access", "refresh", 1, 2))
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [
        "enrolment.json",
        "identity.json",
        "tokens.json",
        "tokens.lock",
    ]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"identity_key":"AA","proof_key":"AA"}', b"\xff"]
)
def test_damaged_identity_is_named_and_not_replaced(tmp_path, content):
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(EnrolmentRejected, match=r"identity\.json is damaged"):
        IdentityStore(tmp_path).load_or_create(CountedRng())
    assert (tmp_path / "identity.json").read_bytes() == content


def test_enrolment_signature_binds_ticket_and_both_keys():
    rng = CountedRng()
    me, other = Identity.generate(rng), Identity.generate(rng)
    signature = me.sign_enrolment("ticket")
    verify_enrolment("ticket", me.public_identity_key, me.public_proof_key, signature)
    for ticket, identity_key, proof_key in (
        ("another", me.public_identity_key, me.public_proof_key),
        ("ticket", other.public_identity_key, me.public_proof_key),
        ("ticket", me.public_identity_key, other.public_proof_key),
        ("ticket", me.public_identity_key, b""),
    ):
        with refused():
            verify_enrolment(ticket, identity_key, proof_key, signature)


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "client-8"},
        {"iat": int(NOW) + 1},
        {"nonce": b"m" * 16},
        {"nonce": b"n" * 15},
        {"proof_key": bytes(32)},
        {"signature": bytes(64)},
        {"now": NOW + 61},
        {"now": NOW - 61},
    ],
    ids=str,
)
def test_grant_signature_binds_client_time_nonce_and_proof_key(changes):
    me = Identity.generate(CountedRng())
    values = {
        "client_id": "client-7",
        "iat": int(NOW),
        "nonce": NONCE,
        "proof_key": me.public_proof_key,
        "signature": me.sign_grant("client-7", int(NOW), NONCE),
        "identity_key": me.public_identity_key,
        "now": NOW,
    }
    verify_grant(**values)
    with refused():
        verify_grant(**{**values, **changes})


def small_order_points() -> list[bytes]:
    """Encodings of the eight points whose order divides eight, found by doubling."""
    prime = 2**255 - 19
    d = -121665 * pow(121666, -1, prime) % prime

    def doubled(y: int) -> int:
        # Of a point's x only the square matters here: x^2 = (y^2 - 1) / (d y^2 + 1).
        y2 = y * y % prime
        x2 = (y2 - 1) * pow(d * y2 + 1, -1, prime) % prime
        return (y2 + x2) * pow(1 - d * x2 * y2, -1, prime) % prime

    order_8 = int.from_bytes(
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
    )
    found = {order_8, prime - order_8}
    y = order_8
    for _ in range(3):
        y = doubled(y)
        found |= {y, -y % prime}
    assert y == 1
    return [
        (y + times * prime + (sign << 255)).to_bytes(32, "little")
        for y in found
        for times in (0, 1)
        for sign in (0, 1)
        if y + times * prime < 2**255
    ]


def test_keys_that_anybody_can_sign_for_are_refused() -> None:
    points = small_order_points()
    assert len(points) == 14
    for point in points:
        assert has_small_order(point)
        assert not is_signed_by(b"", b"message", b"\1" + bytes(63), point)
        with pytest.raises(TokenRejected, match="TOKEN_UNKNOWN_KEY"):
            VerifyingKey({"kty": "OKP", "crv": "Ed25519", "x": b64url(point)})
        with refused():
            verify_enrolment("ticket", point, bytes(32), b"\1" + bytes(63))
    honest = Identity.generate(SystemRng()).public_identity_key
    assert not has_small_order(honest)
