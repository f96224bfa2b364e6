"""Every parser that faces the network, given damaged input and noise.

None crashes, hangs or takes memory out of proportion; each refuses with its typed error. Hangs show
as an example that takes longer than the deadline.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import (
    ConfigInvalid,
    EnvelopeRejected,
    EvidenceRejected,
    HopRejected,
    ProofRejected,
    ReceiptRejected,
    TokenRejected,
)
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.envelope import seal
from fl_protocol.header import Header
from fl_protocol.jws import parse_token
from fl_protocol.membership import Membership, sign_membership, verify_membership
from fl_protocol.proof import ProofVerifier, make_proof, thumbprint
from fl_protocol.receipts import read_record, sign, verify_head, verify_receipt, verify_status
from fl_protocol.signatures import Signed
from fl_protocol.tokens import TokenSigner, TokenVerifier, public_jwk, verify_compact_jws
from fl_server.gateway.call import begin_call
from strategies.errors import ManifestMismatch
from strategies.layout import Layout
from tee_sim.channel import MAX_HEADER_BYTES, Channel, ChannelClosed, encode_head
from tee_sim.evidence import Claims, Evidence
from tee_sim.hop import HopSigner, HopVerifier
from tee_sim.policy import EnclavePolicy
from tests.fuzz.damage import damaged, within_bounds
from tests.protocol.support import CountedRng, make_header
from tests.protocol.test_receipts import RECEIPT, RELEASE
from tests.support.clock import SetClock
from tests.support.enclave import policy_for
from tests.tee_sim.test_evidence import NONCE, Host

KEY = Ed25519PrivateKey.from_private_bytes(b"\x21" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
CLOCK, RNG = SetClock(), CountedRng()
JKT = thumbprint(PUBLIC)
METHOD = "/asynclave.v1.Gateway/SubmitUpdate"
SIGNER = TokenSigner(KEY, "key-1")
TOKEN = SIGNER.issue(
    issuer="issuer",
    audience="gateway",
    client_id="client-7",
    scope="update:submit",
    jkt=JKT,
    clock=CLOCK,
    rng=RNG,
)
TOKENS = TokenVerifier({"keys": [SIGNER.jwk()]}, "issuer", "gateway", CLOCK)
PROOF = make_proof(KEY, METHOD, TOKEN, CLOCK, RNG)
JWK = {**public_jwk(KEY), "alg": "EdDSA", "use": "sig"}
HEADER = make_header(PUBLIC).encode()
SEALED = seal(make_header(PUBLIC), np.zeros(4, np.float32).data, PUBLIC, KEY, RNG).protected
MEMBERSHIP = sign_membership(Membership.of("demo", "client-7", PUBLIC, "client"), KEY)
RECORDS = [sign(record, KEY).payload for record in (RECEIPT, RELEASE)]
LAYOUT = Layout.of({"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)})
POLICY = policy_for(KEY)
with TemporaryDirectory() as folder:
    HOST = Host(Path(folder))
EVIDENCE = HOST.evidence()
HOP = HopSigner(bytes(32), CLOCK, RNG).sign({"op": "STATUS"})


def _text(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    # As gRPC hands metadata over; what is no text never gets that far.
    return lambda data: read(data.decode("latin-1"))


def _channel(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        Channel(theirs).receive().body.discard()


def _record(data: bytes) -> None:
    """Whoever holds a receipt key may sign anything."""
    signed = Signed(data, KEY.sign(data))
    for read in (verify_receipt, verify_head, verify_status):
        with pytest.raises(ReceiptRejected):
            read(signed, PUBLIC)
    read_record(signed)


@dataclass(frozen=True)
class Parser:
    name: str
    samples: list[bytes]
    read: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...]
    # Memory it may take whatever it reads.
    spare: int = 0


PARSERS = [
    Parser(
        "canonical JSON",
        [HEADER, *RECORDS],
        lambda data: canonical.decode_object(data, 4096),
        (CanonicalError,),
    ),
    Parser(
        "JSON of others",
        [HEADER, *RECORDS],
        lambda data: canonical.parse_object(data, 4096),
        (CanonicalError,),
    ),
    Parser("base64url", [b64url(HEADER).encode()], _text(b64url_decode), (ValueError,)),
    Parser("JWS", [TOKEN.encode()], _text(parse_token), (TokenRejected,)),
    Parser("access token", [TOKEN.encode()], _text(TOKENS.verify), (TokenRejected,)),
    Parser(
        "JWS and key",
        [TOKEN.encode()],
        _text(lambda text: verify_compact_jws(text, JWK)),
        (TokenRejected,),
    ),
    Parser(
        "proof",
        [PROOF.encode()],
        _text(lambda text: ProofVerifier(CLOCK).verify(text, METHOD, TOKEN, JKT)),
        (ProofRejected,),
    ),
    Parser(
        "trace",
        [b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"],
        _text(lambda text: begin_call("GetKeys", {"traceparent": text})),
        (),
    ),
    Parser("update header", [SEALED], Header.decode, (EnvelopeRejected,)),
    Parser(
        "membership",
        [MEMBERSHIP],
        lambda data: verify_membership(data, PUBLIC),
        (EnvelopeRejected,),
    ),
    Parser("signed record", RECORDS, _record, (ReceiptRejected,)),
    Parser("layout", [LAYOUT.to_json().encode()], _text(Layout.from_json), (ManifestMismatch,)),
    Parser("evidence", [EVIDENCE], Evidence.decode, (EvidenceRejected,)),
    Parser(
        "evidence appraised",
        [EVIDENCE],
        lambda data: HOST.trust.appraise(data, NONCE, 0, HOST.clock),
        (EvidenceRejected,),
    ),
    Parser("claims", [Evidence.decode(EVIDENCE).payload], Claims.decode, (EvidenceRejected,)),
    Parser(
        "frames",
        [encode_head({"op": "STATUS"}, 0), encode_head({"op": "SUBMIT"}, 40) + bytes(40)],
        _channel,
        (ChannelClosed,),
        MAX_HEADER_BYTES,
    ),
]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_damaged_input_is_taken_or_refused(parser: Parser) -> None:
    @settings(max_examples=400, deadline=timedelta(seconds=30))
    @given(damaged(parser.samples))
    def run(data: bytes) -> None:
        size = len(data) + parser.spare
        within_bounds(lambda: parser.read(data), parser.refusals, size)

    for sample in parser.samples:
        parser.read(sample)
    run()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5)
    ),
    max_leaves=20,
)


@st.composite
def altered(draw: st.DrawFn, members: dict[str, Any]) -> dict[str, Any]:
    """Members of which some are missing, of another type, or too many."""
    changed = dict(members)
    for name in draw(st.lists(st.sampled_from([*members, "extra"]), max_size=3)):
        changed[name] = draw(JSON)
    for name in draw(st.lists(st.sampled_from([*members]), max_size=1)):
        changed.pop(name, None)
    return changed


@settings(max_examples=400, deadline=timedelta(seconds=30))
@given(altered(JWK))
def test_keys_of_any_form_verify_or_are_refused(jwk: dict[str, Any]) -> None:
    within_bounds(lambda: verify_compact_jws(TOKEN, jwk), (TokenRejected,), len(str(jwk)))


@settings(max_examples=400, deadline=timedelta(seconds=30))
@given(altered(POLICY.to_members()))
def test_policies_of_any_form_are_read_or_refused(members: dict[str, Any]) -> None:
    def read() -> None:
        assert EnclavePolicy.from_members(members).to_members() == members

    within_bounds(read, (ConfigInvalid,), len(str(members)))


@settings(max_examples=400, deadline=timedelta(seconds=30))
@given(altered(HOP))
def test_requests_of_any_form_are_verified_or_refused(request: dict[str, Any]) -> None:
    try:
        canonical.encode(request)
    except CanonicalError:
        # Nothing that comes out of a frame.
        reject()

    def read() -> None:
        HopVerifier(bytes(32), CLOCK).verify(request)
        assert request == HOP

    within_bounds(read, (HopRejected,), len(str(request)))


@settings(max_examples=200, deadline=timedelta(seconds=30))
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=40))
def test_lengths_of_any_size_are_bounded_before_memory_is_taken(
    header: int, body: int, rest: bytes
) -> None:
    head = json.dumps({"op": "STATUS"}, separators=(",", ":")).encode()
    frames = struct.pack(">I", header) + head + struct.pack(">Q", body) + rest
    size = len(frames) + MAX_HEADER_BYTES
    within_bounds(lambda: _channel(frames), (ChannelClosed,), size)
