import hashlib
import math
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.envelope import (
    SEGMENT_BYTES,
    SUITE,
    TAG_BYTES,
    Header,
    Opener,
    body_digest,
    body_size,
    seal,
    verify_signature,
)
from tests.protocol.support import CountedRng, make_header

ENCLAVE = X25519PrivateKey.from_private_bytes(b"\x01" * 32)
ENCLAVE_PUBLIC = ENCLAVE.public_key().public_bytes_raw()
CLIENT = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
CLIENT_PUBLIC = CLIENT.public_key().public_bytes_raw()
DELTA = bytes(range(256)) * (5 * SEGMENT_BYTES // 512)  # two and a half segments


def sealed_update(delta=DELTA, rng=None, **changes):
    header = make_header(ENCLAVE_PUBLIC, **changes)
    return seal(header, memoryview(delta), ENCLAVE_PUBLIC, CLIENT, rng or CountedRng())


def open_all(sealed, segments=None, key=ENCLAVE):
    opener = Opener(key, sealed.protected, sealed.wrap, sealed.tags)
    out = memoryview(bytearray(opener.header.plain_len))
    at = 0
    for index, segment in enumerate(sealed.segments if segments is None else segments):
        at += opener.open_segment(index, segment, out[at:])
    opener.finish()
    return bytes(out)


def refused(code):
    return pytest.raises(EnvelopeRejected, match=f"^{code}:")


@pytest.mark.parametrize("size", [0, 1, 4, SEGMENT_BYTES, SEGMENT_BYTES + 4, len(DELTA)])
def test_enclave_opens_what_the_client_sealed(size):
    sealed = sealed_update(DELTA[:size])
    verify_signature(sealed.protected, sealed.wrap, sealed.tags, sealed.signature, CLIENT_PUBLIC)
    assert open_all(sealed) == DELTA[:size]


def test_format_is_the_documented_one():
    """Opens and verifies a sealed update with nothing but the module's description."""
    sealed = sealed_update(DELTA[: SEGMENT_BYTES + 5])
    context = hashlib.sha256(sealed.protected).digest()
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    key = suite.decrypt(sealed.wrap, ENCLAVE, b"asynclave/update/v1\0" + context)
    nonces = [bytes(11) + b"\x00", bytes(10) + b"\x01\x01"]
    opened = [
        AESGCM(key).decrypt(nonce, bytes(segment), context)
        for nonce, segment in zip(nonces, sealed.segments, strict=True)
    ]
    assert b"".join(opened) == DELTA[: SEGMENT_BYTES + 5]
    tags = b"".join(bytes(segment[-16:]) for segment in sealed.segments)
    assert sealed.tags == tags
    signed = b"asynclave/sig/v1\0" + context + hashlib.sha256(sealed.wrap + tags).digest()
    CLIENT.public_key().verify(sealed.signature, signed)


def test_lengths_are_a_function_of_the_delta_alone():
    zeros, noise = sealed_update(bytes(3000)), sealed_update(DELTA[:3000])
    assert sum(map(len, zeros.segments)) == sum(map(len, noise.segments)) == body_size(3000)[0]
    assert len(zeros.protected) == len(noise.protected)


def test_seals_float_views_without_a_copy_first():
    floats = memoryview(bytearray(8)).cast("f")
    floats[0], floats[1] = 1.5, -2.0
    assert open_all(sealed_update(floats)) == floats.tobytes()


def test_two_seals_of_one_delta_share_no_ciphertext():
    rng = CountedRng()
    first, second = sealed_update(DELTA[:64], rng), sealed_update(DELTA[:64], rng)
    assert first.wrap != second.wrap
    assert bytes(first.segments[0]) != bytes(second.segments[0])


@pytest.mark.parametrize("part", ["protected", "wrap", "tags", "signature"])
@pytest.mark.parametrize("position", [0.0, 0.37, 0.999])
def test_refuses_any_signed_byte_changed(part, position):
    sealed = sealed_update(DELTA[:100])
    changed = bytearray(getattr(sealed, part))
    changed[math.floor(position * len(changed))] ^= 1
    forged = replace(sealed, **{part: bytes(changed)})
    with refused(Code.ENV_SIGNATURE):
        verify_signature(
            forged.protected, forged.wrap, forged.tags, forged.signature, CLIENT_PUBLIC
        )


def test_refuses_a_body_byte_changed():
    sealed = sealed_update()
    sealed.segments[1][77] ^= 1
    with refused(Code.ENV_DECRYPT):
        open_all(sealed)


def test_refuses_a_tag_that_differs_from_the_signed_one():
    sealed = sealed_update()
    with refused(Code.ENV_DECRYPT):
        open_all(replace(sealed, tags=sealed.tags[:-1] + bytes([sealed.tags[-1] ^ 1])))


def test_refuses_another_clients_ciphertext_signed_again():
    sealed = sealed_update(DELTA[:100])
    thief = Ed25519PrivateKey.from_private_bytes(b"\x03" * 32)
    header = replace(Header.decode(sealed.protected), client_id="thief").encode()
    own = seal(Header.decode(header), memoryview(DELTA[:100]), ENCLAVE_PUBLIC, thief, CountedRng())
    stolen = replace(own, wrap=sealed.wrap, tags=sealed.tags, segments=sealed.segments)
    with refused(Code.ENV_DECRYPT):
        open_all(stolen)


@pytest.mark.parametrize(
    "field, value",
    [("run_id", "run-2"), ("epoch", 4), ("base_version", 5), ("policy_digest", "1" * 64)],
)
def test_refuses_a_header_moved_to_another_context(field, value):
    sealed = sealed_update(DELTA[:100])
    header = replace(Header.decode(sealed.protected), **{field: value}).encode()
    with refused(Code.ENV_DECRYPT):
        open_all(replace(sealed, protected=header))


def test_refuses_reordered_segments():
    sealed = sealed_update()
    first, second, last = sealed.segments
    with refused(Code.ENV_DECRYPT):
        open_all(sealed, [second, first, last])
    tags = b"".join(bytes(part[-TAG_BYTES:]) for part in (second, first, last))
    with refused(Code.ENV_DECRYPT):
        open_all(replace(sealed, tags=tags), [second, first, last])


def test_refuses_a_truncated_body():
    sealed = sealed_update()
    with refused(Code.ENV_LENGTH):
        open_all(sealed, sealed.segments[:-1])


def test_refuses_a_truncation_whose_header_was_fixed_up():
    sealed = sealed_update(DELTA[: 2 * SEGMENT_BYTES])
    ct_len, n_segs = body_size(SEGMENT_BYTES)
    header = replace(Header.decode(sealed.protected), ct_len=ct_len, n_segs=n_segs)
    short = replace(sealed, protected=header.encode(), tags=sealed.tags[:TAG_BYTES])
    with refused(Code.ENV_DECRYPT):
        open_all(short, sealed.segments[:1])


def test_refuses_an_appended_and_a_repeated_segment():
    sealed = sealed_update()
    with refused(Code.ENV_LENGTH):
        open_all(sealed, [*sealed.segments, sealed.segments[-1]])
    opener = Opener(ENCLAVE, sealed.protected, sealed.wrap, sealed.tags)
    out = memoryview(bytearray(SEGMENT_BYTES))
    opener.open_segment(0, sealed.segments[0], out)
    with refused(Code.ENV_LENGTH):
        opener.open_segment(0, sealed.segments[0], out)


def test_refuses_an_output_buffer_that_is_too_small():
    sealed = sealed_update(DELTA[:100])
    opener = Opener(ENCLAVE, sealed.protected, sealed.wrap, sealed.tags)
    with refused(Code.ENV_LENGTH):
        opener.open_segment(0, sealed.segments[0], memoryview(bytearray(99)))


def test_refuses_after_the_enclave_was_restarted_with_a_new_key():
    restarted = X25519PrivateKey.from_private_bytes(b"\x09" * 32)
    with refused(Code.ENV_DECRYPT):
        open_all(sealed_update(DELTA[:100]), key=restarted)


@pytest.mark.parametrize(
    "point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
)
def test_refuses_a_low_order_enclave_key(point):
    with refused(Code.ENV_KEY_ID):
        seal(make_header(point), memoryview(b"abcd"), point, CLIENT, CountedRng())


def test_refuses_a_low_order_encapsulated_key():
    sealed = sealed_update(DELTA[:100])
    with refused(Code.ENV_DECRYPT):
        open_all(replace(sealed, wrap=bytes(32) + sealed.wrap[32:]))


def test_refuses_another_suite():
    with refused(Code.ENV_SUITE):
        sealed_update(suite="X25519-HKDF-SHA256-AES-128-GCM")


@pytest.mark.parametrize(
    "member, value, code",
    [
        ("v", "2", Code.ENV_MALFORMED),
        ("epoch", "-1", Code.ENV_MALFORMED),
        ("epoch", "true", Code.ENV_MALFORMED),
        ("num_examples", "1.0", Code.ENV_MALFORMED),
        ("num_examples", '"10"', Code.ENV_MALFORMED),
        ("client_id", '"../other"', Code.ENV_MALFORMED),
        ("client_id", '""', Code.ENV_MALFORMED),
        ("nonce", '"00"', Code.ENV_MALFORMED),
        ("key_id", '"' + "A" * 64 + '"', Code.ENV_MALFORMED),
        ("suite", '"none"', Code.ENV_SUITE),
        ("ct_len", "10000000000", Code.ENV_LENGTH),
        ("n_segs", "0", Code.ENV_LENGTH),
        ("seg_size", "1", Code.ENV_LENGTH),
    ],
)
def test_refuses_a_header_with_a_wrong_value(member, value, code):
    protected = sealed_update(DELTA[:100]).protected.decode()
    name = f'"{member}":'
    before, after = protected.split(name)
    stop = min(at for at in (after.find(","), after.find("}")) if at >= 0)
    with refused(code):
        Header.decode((before + name + value + after[stop:]).encode())


def test_refuses_a_header_with_an_unknown_missing_or_duplicate_member():
    protected = sealed_update(DELTA[:100]).protected
    for changed in (
        protected[:-1] + b',"w":1}',
        protected.replace(b'"v":1', b'"u":1'),
        protected[:-1] + b',"v":1}',
        protected + b" ",
        b"",
    ):
        with refused(Code.ENV_MALFORMED):
            Header.decode(changed)


def test_header_carries_any_integer_of_examples_for_the_engine_to_judge():
    for count in (0, -1, 2**62):
        assert Header.decode(sealed_update(b"", num_examples=count).protected).num_examples == count


def test_suite_names_its_parts():
    assert SUITE == "X25519-HKDF-SHA256-AES-256-GCM"


def test_body_digest_changes_with_each_signed_part():
    sealed = sealed_update(DELTA[:100])
    parts = (sealed.protected, sealed.wrap, sealed.tags)
    digests = {body_digest(*parts)}
    for index in range(3):
        changed = list(parts)
        changed[index] = changed[index][:-1] + bytes([changed[index][-1] ^ 1])
        digests.add(body_digest(*changed))
    assert len(digests) == 4
