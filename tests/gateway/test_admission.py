"""Who is let in: tokens, proofs, scopes, tickets and refresh tokens over the real gateway."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.encoding import b64url_decode
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proof import ProofNonces
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.tokens import TokenSigner
from fl_server.gateway.registry import open_registry
from fl_server.stack import LocalStack
from fl_server.stack.keys import HOP_KEY
from tee_sim.settings import load_key
from tests.support.clock import SetClock
from tests.support.sealed import RawGateway, audit_lines, client

NONCE = bytes(32)
Token = Callable[[str], str]


def evidence() -> pb.EvidenceRequest:
    return pb.EvidenceRequest(nonce=NONCE)


def test_an_enrolled_client_is_let_in(raw: RawGateway, token: Token) -> None:
    assert raw.call("GetEvidence", evidence(), token("client")).evidence


def test_keys_are_public(raw: RawGateway) -> None:
    keys = json.loads(raw.call("GetKeys", pb.KeysRequest()).jwks_json)["keys"]
    assert [key["alg"] for key in keys] == ["EdDSA"]
    assert "d" not in keys[0]


def test_refuses_a_call_without_a_token(raw: RawGateway) -> None:
    assert raw.call("GetEvidence", evidence()) == "TOKEN_MISSING"
    assert raw.call("GetEvidence", evidence(), metadata=[("authorization", "Bearer x")]) == (
        "TOKEN_MISSING"
    )


def test_refuses_garbage_for_a_token(raw: RawGateway) -> None:
    assert raw.call("GetEvidence", evidence(), "a.b.c") == "TOKEN_MALFORMED"


@pytest.mark.parametrize(("kid", "code"), [(None, "TOKEN_SIGNATURE"), ("x", "TOKEN_UNKNOWN_KEY")])
def test_refuses_a_token_of_another_issuer(raw: RawGateway, kid: str | None, code: str) -> None:
    published = json.loads(raw.call("GetKeys", pb.KeysRequest()).jwks_json)["keys"][0]["kid"]
    signer = TokenSigner(Ed25519PrivateKey.generate(), kid or published)
    forged = signer.issue(
        issuer="asynclave:local",
        audience="asynclave-gateway:local",
        client_id="raw",
        scope="attest:read",
        jkt=raw.identity.jkt,
        clock=SystemClock(),
        rng=SystemRng(),
    )
    assert raw.call("GetEvidence", evidence(), forged) == code


@pytest.mark.parametrize(("age", "code"), [(1000, "TOKEN_EXPIRED"), (-1000, "TOKEN_NOT_YET_VALID")])
def test_refuses_a_token_outside_its_time(
    stack: LocalStack, raw: RawGateway, token: Token, age: int, code: str
) -> None:
    head, payload, _ = token("client").split(".")
    claims = json.loads(b64url_decode(payload))
    for name in ("iat", "nbf", "exp"):
        claims[name] -= age
    key = Ed25519PrivateKey.from_private_bytes((stack.state_dir / "token.key").read_bytes())
    kid = json.loads(b64url_decode(head))["kid"]
    assert raw.call("GetEvidence", evidence(), TokenSigner(key, kid).sign(claims)) == code


def test_refuses_a_token_with_one_changed_character(raw: RawGateway, token: Token) -> None:
    good = token("client")
    head, payload, signature = good.split(".")
    flipped = ("A" if payload[10] != "A" else "B").join((payload[:10], payload[11:]))
    assert raw.call("GetEvidence", evidence(), f"{head}.{flipped}.{signature}") == (
        "TOKEN_SIGNATURE"
    )


def test_refuses_a_call_outside_the_tokens_scope(raw: RawGateway, token: Token) -> None:
    client = token("client")
    header = pb.OpenRunRequest(header=pb.OpenRunHeader(run_id="r", length=0))
    assert raw.call("OpenRun", iter([header]), client) == "TOKEN_SCOPE"


def test_a_client_gets_its_models_from_the_server_alone(raw: RawGateway, token: Token) -> None:
    wanted = pb.GetReleaseRequest(run_id="r", version=1)
    assert raw.call("GetRelease", wanted, token("client")) == "TOKEN_SCOPE"


def test_a_server_may_not_submit_updates(raw: RawGateway, token: Token) -> None:
    server = token("server")
    assert raw.call("SubmitUpdate", iter([pb.SubmitRequest()]), server) == "TOKEN_SCOPE"


def test_refuses_a_stolen_token_without_its_key(raw: RawGateway, token: Token) -> None:
    stolen = token("client")
    thief = Identity.generate(SystemRng())
    proof = raw.proof("GetEvidence", stolen, thief)
    assert raw.call("GetEvidence", evidence(), stolen, proof=proof) == "PROOF_INVALID"
    bare = [("authorization", f"DPoP {stolen}")]
    assert raw.call("GetEvidence", evidence(), metadata=bare) == "PROOF_MISSING"


@pytest.mark.parametrize("order", [1, -1], ids=["bad first", "good first"])
def test_refuses_a_second_proof_or_token_beside_a_good_one(
    raw: RawGateway, token: Token, order: int
) -> None:
    good = token("client")
    authorization = ("authorization", f"DPoP {good}")

    def called_with(key: str, second: str) -> str | pb.EvidenceReply:
        own = [("dpop", raw.proof("GetEvidence", good)), authorization]
        return raw.call("GetEvidence", evidence(), metadata=[(key, second), *own][::order])

    for proof in ("", "garbage", raw.proof("GetEvidence", good)):
        assert called_with("dpop", proof) == "PROOF_INVALID"
    for other in ("", "Bearer x", "DPoP x", f"DPoP {good}"):
        assert called_with("authorization", other) == "TOKEN_MALFORMED"
    assert called_with("traceparent", "").evidence


def test_refuses_a_replayed_proof(raw: RawGateway, token: Token) -> None:
    good = token("client")
    proof = raw.proof("GetEvidence", good)
    assert raw.call("GetEvidence", evidence(), good, proof=proof).evidence
    assert raw.call("GetEvidence", evidence(), good, proof=proof) == "PROOF_REPLAYED"


def test_refuses_a_proof_with_an_old_nonce(
    raw: RawGateway, token: Token, stack: LocalStack
) -> None:
    good = token("client")
    clock = SystemClock()
    past = SetClock(clock.now() - 200)
    raw.nonces = ProofNonces(load_key(stack.state_dir / HOP_KEY), past)
    proof = raw.proof("GetEvidence", good)
    assert raw.call("GetEvidence", evidence(), good, proof=proof) == "PROOF_NONCE"
    past.time = clock.now()
    assert raw.call("GetEvidence", evidence(), good).evidence


def test_refuses_a_proof_made_for_another_method(raw: RawGateway, token: Token) -> None:
    good = token("client")
    proof = raw.proof("GetRelease", good)
    assert raw.call("GetEvidence", evidence(), good, proof=proof) == "PROOF_INVALID"


def test_a_ticket_admits_one_identity(stack: LocalStack, raw: RawGateway) -> None:
    ticket = stack.ticket("client", "once")
    first = raw.enrol(ticket)
    assert first.client_id.startswith("once-")
    assert raw.enrol(ticket).client_id == first.client_id
    raw.identity = Identity.generate(SystemRng())
    assert raw.enrol(ticket) == "ENROL_TICKET_USED"
    assert raw.enrol("no-such-ticket") == "ENROL_TICKET_INVALID"


def test_refuses_an_enrolment_signed_by_another_key(stack: LocalStack, raw: RawGateway) -> None:
    ticket, other = stack.ticket("client", "x"), Identity.generate(SystemRng())
    request = pb.EnrolRequest(
        ticket=ticket,
        identity_key=other.public_identity_key,
        proof_key=raw.identity.public_proof_key,
        signature=raw.identity.sign_enrolment(ticket),
    )
    assert raw.call("Enrol", request) == "IDENTITY_INVALID"


def test_reusing_a_refresh_token_revokes_its_family(stack: LocalStack, raw: RawGateway) -> None:
    enrolled = raw.enrol(stack.ticket("client", "family"))
    first = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    assert raw.call("GetEvidence", evidence(), first.access_token).evidence
    second = raw.refresh(enrolled.client_id, first.refresh_token)
    assert raw.refresh(enrolled.client_id, enrolled.refresh_token) == "REFRESH_REUSED"
    assert raw.refresh(enrolled.client_id, second.refresh_token) == "TOKEN_REVOKED"
    assert raw.call("GetEvidence", evidence(), first.access_token) == "TOKEN_REVOKED"
    # The rightful owner still has the identity key.
    assert raw.by_identity(enrolled.client_id, bytes(16)).access_token


def test_a_refresh_whose_reply_was_lost_is_answered_alike(
    stack: LocalStack, raw: RawGateway
) -> None:
    enrolled = raw.enrol(stack.ticket("client", "lost"))
    lost = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    again = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    assert again.refresh_token == lost.refresh_token
    assert raw.call("GetEvidence", evidence(), again.access_token).evidence
    assert raw.refresh(enrolled.client_id, again.refresh_token).access_token


def test_a_thief_of_a_spent_refresh_token_revokes_its_family_at_any_time(
    stack: LocalStack, raw: RawGateway
) -> None:
    enrolled = raw.enrol(stack.ticket("client", "robbed"))
    first = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    thief = RawGateway(stack)
    assert thief.refresh(enrolled.client_id, enrolled.refresh_token) == "REFRESH_REUSED"
    thief.close()
    assert raw.call("GetEvidence", evidence(), first.access_token) == "TOKEN_REVOKED"


def test_a_refresh_that_is_refused_spends_nothing(stack: LocalStack, raw: RawGateway) -> None:
    other = raw.enrol(stack.ticket("client", "other")).client_id
    raw.identity = Identity.generate(SystemRng())
    enrolled = raw.enrol(stack.ticket("client", "careless"))
    assert raw.refresh(other, enrolled.refresh_token) == "TOKEN_CLAIMS"
    path = stack.state_dir / "token.key"
    key = path.read_bytes()
    path.write_bytes(b"short")
    assert raw.refresh(enrolled.client_id, enrolled.refresh_token) == "CONFIG_INVALID"
    path.write_bytes(key)
    with open_registry(stack.state_dir / "registry.sqlite") as registry:
        now, jkt = SystemClock().now(), raw.identity.jkt
        # A second exchange would be refused: its successor is another.
        registry.rotate(enrolled.refresh_token, "next", enrolled.client_id, jkt, now)


def test_an_identity_proof_serves_once_and_only_now(stack: LocalStack, raw: RawGateway) -> None:
    client_id = raw.enrol(stack.ticket("client", "proof")).client_id
    assert raw.by_identity(client_id, b"n" * 16).access_token
    assert raw.by_identity(client_id, b"n" * 16) == "IDENTITY_INVALID"
    assert raw.by_identity(client_id, b"m" * 16, iat=1) == "IDENTITY_INVALID"
    assert raw.by_identity("somebody-else", b"o" * 16) == "IDENTITY_INVALID"


def test_a_revoked_client_is_refused_at_once(stack: LocalStack, raw: RawGateway) -> None:
    ticket = stack.ticket("client", "revoked")
    enrolled = raw.enrol(ticket)
    reply = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    stack.revoke("client", enrolled.client_id)
    assert raw.enrol(ticket) == "TOKEN_REVOKED"
    assert raw.call("GetEvidence", evidence(), reply.access_token) == "TOKEN_REVOKED"
    assert raw.by_identity(enrolled.client_id, b"r" * 16) == "TOKEN_REVOKED"


def test_that_a_client_was_revoked_is_told_to_nobody_else(
    stack: LocalStack, raw: RawGateway
) -> None:
    enrolled = raw.enrol(stack.ticket("client", "private"))
    reply = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    stack.revoke("client", enrolled.client_id)
    stranger = RawGateway(stack)
    assert stranger.by_identity(enrolled.client_id, bytes(16)) == "IDENTITY_INVALID"
    assert stranger.refresh(enrolled.client_id, "made-up") == "TOKEN_MALFORMED"
    assert stranger.refresh(enrolled.client_id, reply.refresh_token) == "PROOF_INVALID"
    assert stranger.call("GetEvidence", evidence(), reply.access_token) == "PROOF_INVALID"
    assert raw.refresh(enrolled.client_id, reply.refresh_token) == "TOKEN_REVOKED"
    stranger.close()


def kids_of(raw: RawGateway) -> list[str]:
    reply = raw.call("GetKeys", pb.KeysRequest())
    return [key["kid"] for key in json.loads(reply.jwks_json)["keys"]]


def test_a_rotated_key_signs_at_once_and_the_one_before_is_valid_once_more(
    stack: LocalStack, raw: RawGateway
) -> None:
    enrolled = raw.enrol(stack.ticket("client", "rotated"))
    tokens = [raw.refresh(enrolled.client_id, enrolled.refresh_token)]
    kids = kids_of(raw)[:1]
    for _ in range(2):
        stack.rotate_token_key()
        tokens.append(raw.refresh(enrolled.client_id, tokens[-1].refresh_token))
        now, before = kids_of(raw)
        assert (before, now in kids) == (kids[-1], False)
        kids.append(now)
    answers = [raw.call("GetEvidence", evidence(), token.access_token) for token in tokens]
    assert answers[0] == "TOKEN_UNKNOWN_KEY"
    assert answers[1].evidence and answers[2].evidence


def test_tokens_of_a_revoked_key_are_refused_and_clients_obtain_new_ones(
    stack: LocalStack, raw: RawGateway
) -> None:
    enrolled = raw.enrol(stack.ticket("client", "compromised"))
    reply = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    leaked = kids_of(raw)[0]
    node = client(stack, "renewing")
    node._connection.attestor.refresh()
    stack.rotate_token_key()
    stack.revoke("kid", leaked)
    assert leaked not in kids_of(raw)
    assert raw.call("GetEvidence", evidence(), reply.access_token) == "TOKEN_UNKNOWN_KEY"
    node._connection.attestor.refresh()


def test_the_audit_log_names_codes_and_clients_but_no_secret(
    stack: LocalStack, raw: RawGateway
) -> None:
    ticket = stack.ticket("client", "audited")
    enrolled = raw.enrol(ticket)
    reply = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    raw.call("OpenRun", iter([pb.OpenRunRequest()]), reply.access_token)
    log = audit_lines(stack)
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"client": enrolled.client_id, "event": "IssueToken", "code": "OK"}.items() <= (
        lines[-2].items()
    )
    assert lines[-1]["code"] == "TOKEN_SCOPE"
    for secret in (ticket, enrolled.refresh_token, reply.refresh_token, reply.access_token):
        assert secret not in log
