import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme

from fl_protocol.codes import (
    AsynclaveError,
    ConfigInvalid,
    EnrolmentRejected,
    EnvelopeRejected,
    GatewayUnavailable,
    TokenRejected,
)
from fl_protocol.identity import Identity, IdentityStore
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.session import Session
from fl_protocol.tokens import REFRESH_GRACE
from tests.protocol.small_gateway import TICKET, TTL, SmallGateway
from tests.protocol.support import CountedRng
from tests.support.clock import SetClock

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, None)
EXPIRED = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def gateway(authority, clock):
    issued = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    certificate = grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
    gateway = SmallGateway(certificate, clock, CountedRng("gateway"))
    gateway.address = gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture
def connect(gateway, authority, clock):
    sessions = []

    def open_session(address=None, ticket=TICKET, store=None, patience=10.0, ca_pem=None):
        rng = CountedRng(f"session {len(sessions)}")
        identity = store.load_or_create(rng) if store else Identity.generate(rng)
        ca_pem = ca_pem or authority.cert_pem.bytes()
        address = address or gateway.address
        session = Session(
            address, ca_pem, identity, ticket, clock, rng, store=store, patience=patience
        )
        sessions.append(session)
        return session

    yield open_session
    for session in sessions:
        session.close()


def ask(session, nonce=b"nonce", **options):
    return session.call("GetEvidence", pb.EvidenceRequest(nonce=nonce), **options).evidence


def upload(session, *parts):
    messages = [pb.SubmitRequest(segment=part) for part in parts]
    return session.call("SubmitUpdate", lambda: iter(messages)).payload


def test_enrols_obtains_a_token_and_calls(gateway, connect):
    session = connect()
    assert ask(session) == b"nonce"
    assert session.enrol().client_id == "client-7"
    assert gateway.calls == {"Enrol": 1, "IssueToken": 1, "GetEvidence": 1}


def test_reuses_a_token_for_many_calls_with_a_new_proof_each(gateway, connect):
    session = connect()
    for _ in range(3):
        ask(session)
    assert gateway.calls["IssueToken"] == 1


def test_makes_proofs_with_the_nonce_the_gateway_gave_out_last(gateway, connect, clock):
    gateway.ask_for_nonces()
    session = connect()
    for _ in range(3):
        ask(session)
    # The first proof had none.
    assert (gateway.calls["IssueToken"], gateway.calls["GetEvidence"]) == (2, 3)
    clock.sleep(120)
    assert upload(session, b"one", b"two") == b"onetwo"
    assert upload(session, b"three") == b"three"
    assert gateway.calls["SubmitUpdate"] == 3


def test_threads_share_one_enrolment_and_one_token(gateway, connect):
    session = connect()
    with ThreadPoolExecutor(8) as pool:
        nonces = [bytes([number]) for number in range(24)]
        assert list(pool.map(lambda nonce: ask(session, nonce), nonces)) == nonces
    assert (gateway.calls["Enrol"], gateway.calls["IssueToken"]) == (1, 1)


def test_next_process_needs_no_ticket(gateway, connect, tmp_path):
    ask(connect(store=IdentityStore(tmp_path)))
    later = connect(store=IdentityStore(tmp_path), ticket=None)
    assert ask(later) == b"nonce"
    assert later.enrol().membership == b"statement"
    assert gateway.calls["Enrol"] == 1
    # It goes on with the token of the process before.
    assert gateway.grants == ["refresh_token"]


def test_without_ticket_or_enrolment_says_what_is_missing(connect):
    with pytest.raises(EnrolmentRejected, match="holds no ticket"):
        ask(connect(ticket=None))


def test_refused_ticket_becomes_a_typed_error_at_once(gateway, connect):
    with pytest.raises(EnrolmentRejected, match=r"^ENROL_TICKET_INVALID:"):
        ask(connect(ticket="forged"))
    assert gateway.calls["Enrol"] == 1


def test_renews_at_half_the_lifetime_with_the_rotated_refresh_token(gateway, connect, clock):
    session = connect()
    ask(session)
    clock.sleep(TTL / 2 - 1)
    ask(session)
    assert gateway.calls["IssueToken"] == 1
    clock.sleep(1)
    ask(session)
    clock.sleep(TTL / 2)
    ask(session)
    assert gateway.grants == ["refresh_token"] * 3


def test_falls_back_to_the_identity_key_when_the_refresh_token_is_refused(gateway, connect, clock):
    session = connect()
    ask(session)
    gateway.forget_refresh_tokens()
    clock.sleep(TTL)
    ask(session)
    assert gateway.grants == ["refresh_token", "refresh_token", "identity"]


def test_presents_a_refresh_token_again_soon_after_a_lost_reply(gateway, connect, clock):
    session = connect()
    ask(session)
    clock.sleep(TTL)
    gateway.fail_next("IssueToken", UNAVAILABLE)
    ask(session)
    assert gateway.grants == ["refresh_token", "refresh_token"]
    assert gateway.calls["IssueToken"] == 3


@pytest.mark.parametrize("step", [REFRESH_GRACE / 2, -60])
def test_presents_no_refresh_token_again_long_after_a_lost_reply(
    gateway, connect, clock, tmp_path, step
):
    ask(connect(store=IdentityStore(tmp_path)))
    clock.sleep(TTL)
    gateway.fail_next("IssueToken", UNAVAILABLE)
    with pytest.raises(GatewayUnavailable):
        ask(connect(store=IdentityStore(tmp_path), patience=0))
    clock.sleep(step)
    ask(connect(store=IdentityStore(tmp_path)))
    assert gateway.grants == ["refresh_token", "identity"]


def test_processes_of_a_node_renew_once_between_them(gateway, connect, clock, tmp_path):
    sessions = [connect(store=IdentityStore(tmp_path)) for _ in range(3)]
    for session in sessions:
        ask(session)
    assert gateway.calls["Enrol"] == 1
    assert gateway.grants == ["refresh_token"]
    clock.sleep(TTL / 2)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, sessions))
    assert gateway.grants == ["refresh_token"] * 2


def test_tokens_of_another_proof_key_or_damaged_ones_are_not_used(gateway, connect, tmp_path):
    store = IdentityStore(tmp_path)
    ask(connect(store=store))
    identity = store.load()
    other = Identity(identity.identity_key, Identity.generate(CountedRng("other")).proof_key)
    store.save(other)
    ask(connect(store=IdentityStore(tmp_path)))
    (tmp_path / "tokens.json").write_bytes(b"{}")
    ask(connect(store=IdentityStore(tmp_path)))
    assert gateway.grants == ["refresh_token", "identity", "identity"]


def test_a_full_disk_does_not_keep_a_token_from_being_renewed(gateway, connect, clock, tmp_path):
    session = connect(store=IdentityStore(tmp_path))
    ask(session)
    (tmp_path / "tokens.json").unlink()
    (tmp_path / "tokens.json").mkdir()
    clock.sleep(TTL)
    ask(session)
    assert gateway.grants == ["refresh_token"] * 2


def test_a_revoked_family_is_followed_by_a_proof_of_identity(gateway, connect):
    session = connect()
    ask(session)
    gateway.forget_refresh_tokens()
    gateway.fail_next("GetEvidence", (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED"))
    assert ask(session) == b"nonce"
    assert gateway.grants == ["refresh_token", "refresh_token", "identity"]


def test_keeps_a_live_token_while_it_cannot_be_renewed(gateway, connect, clock):
    session = connect()
    ask(session)
    clock.sleep(TTL * 0.75)
    gateway.fail_next("IssueToken", UNAVAILABLE)
    assert ask(session) == b"nonce"
    assert gateway.calls == {"Enrol": 1, "IssueToken": 2, "GetEvidence": 2}


def test_obtains_a_new_token_in_place_of_one_issued_while_the_gateways_clock_was_ahead(
    gateway, connect
):
    session = connect()
    ask(session)
    gateway.fail_next("GetEvidence", (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_NOT_YET_VALID"))
    assert ask(session) == b"nonce"
    assert gateway.calls == {"Enrol": 1, "IssueToken": 2, "GetEvidence": 3}


def test_retries_once_after_an_expired_token(gateway, connect):
    session = connect()
    gateway.fail_next("GetEvidence", EXPIRED)
    assert ask(session) == b"nonce"
    gateway.fail_next("GetEvidence", EXPIRED, EXPIRED)
    with pytest.raises(TokenRejected, match=r"^TOKEN_EXPIRED:"):
        ask(session)
    assert gateway.calls["GetEvidence"] == 4


def test_obtains_a_new_token_when_the_gateway_changed_its_signing_key(gateway, connect):
    session = connect()
    ask(session)
    gateway.rotate_signing_key()
    assert ask(session) == b"nonce"


def test_retries_while_the_gateway_or_its_enclave_is_away(gateway, connect):
    session = connect()
    gateway.fail_next(
        "GetEvidence", UNAVAILABLE, (grpc.StatusCode.UNAVAILABLE, "ENCLAVE_UNAVAILABLE")
    )
    assert ask(session) == b"nonce"
    assert gateway.calls["GetEvidence"] == 3


def test_calls_again_after_the_gateway_was_restarted_on_its_port(gateway, connect, clock):
    session = connect()
    ask(session)
    jump = clock.sleep
    # The gateway needs real time to come back.
    clock.sleep = lambda seconds: (time.sleep(seconds), jump(seconds))
    gateway.stop()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, session)
        gateway.start(int(gateway.address.rsplit(":", 1)[1]))
        assert answer.result() == b"nonce"


def test_unreachable_gateway_is_named_with_the_time_spent(connect):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"localhost:{unused.getsockname()[1]}"
        session = connect(address=address, patience=0.3)
        with pytest.raises(GatewayUnavailable) as failure:
            ask(session)
    assert failure.value.code == "GATEWAY_UNAVAILABLE"
    assert f"gateway at {address} after trying for" in failure.value.sentence


def test_gateway_with_a_foreign_certificate_is_not_trusted(gateway, connect):
    session = connect(ca_pem=trustme.CA().cert_pem.bytes(), patience=0.2)
    with pytest.raises(GatewayUnavailable, match="ca_pem"):
        ask(session)
    assert not gateway.calls


def test_does_not_retry_a_refusal(gateway, connect):
    session = connect()
    gateway.fail_next("GetEvidence", (grpc.StatusCode.PERMISSION_DENIED, "ENV_EPOCH"))
    with pytest.raises(EnvelopeRejected, match=r"^ENV_EPOCH: scripted"):
        ask(session)
    assert gateway.calls["GetEvidence"] == 1


@pytest.mark.parametrize(
    "status, kind, code",
    [
        (grpc.StatusCode.UNIMPLEMENTED, ConfigInvalid, "CONFIG_INVALID"),
        (grpc.StatusCode.UNKNOWN, AsynclaveError, "INTERNAL"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, GatewayUnavailable, "DEADLINE"),
    ],
)
def test_bare_statuses_become_typed_errors(gateway, connect, status, kind, code):
    session = connect()
    gateway.fail_next("GetEvidence", (status, None))
    with pytest.raises(kind) as failure:
        ask(session)
    assert failure.value.code == code
    assert gateway.calls["GetEvidence"] == 1


def test_streams_requests_anew_for_each_attempt(gateway, connect):
    session = connect()
    gateway.fail_next("SubmitUpdate", UNAVAILABLE)
    assert upload(session, b"a", b"b") == b"ab"
    assert gateway.calls["SubmitUpdate"] == 2


def test_reads_an_interrupted_stream_from_its_start(gateway, connect):
    session = connect()
    gateway.fail_next("GetRelease", UNAVAILABLE)
    chunks = session.receive("GetRelease", pb.GetReleaseRequest(run_id="run-1"), list)
    assert [chunk.chunk for chunk in chunks] == [b"one", b"two"]
    assert gateway.calls["GetRelease"] == 2


def test_sends_the_trace_id_on(gateway, connect):
    ask(connect(), trace_id="a" * 32)
    version, trace_id, _, flags = gateway.metadata["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", "a" * 32, "01")


def test_errors_hold_no_token_ticket_or_key(gateway, connect):
    session = connect(patience=0.1)
    ask(session)
    gateway.fail_next("GetEvidence", *[UNAVAILABLE] * 20)
    with pytest.raises(GatewayUnavailable) as failure:
        ask(session)
    token = gateway.metadata["authorization"].removeprefix("DPoP ")
    assert token not in str(failure.value)
    assert TICKET not in str(failure.value)
