"""Calls through a real Envoy to two real gateways and an enclave."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.ports import SystemRng
from fl_protocol.proof import thumbprint
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.tokens import TokenSigner
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack
from fl_server.stack.keys import TOKEN_KEY
from tests.support import envoy
from tests.support.clock import SetClock
from tests.support.envoy import SETTINGS, EnvoyProxy
from tests.support.processes import kill, wait_until
from tests.support.sealed import (
    LAYOUT,
    RECIPE,
    K,
    RawGateway,
    client,
    initial,
    offer,
    open_run,
    trained,
)

pytestmark = pytest.mark.skipif(not envoy.PROGRAM.exists(), reason=envoy.REASON)

EVIDENCE = pb.EvidenceRequest(nonce=bytes(32))


@dataclasses.dataclass
class Node:
    """An enrolled client's access token, and those that an attacker might make."""

    stack: LocalStack
    client_id: str
    token: str
    jkt: str

    def forged(self, key: Ed25519PrivateKey | None = None, at: float = 0.0, **names: str) -> str:
        """Make a token that differs from a good one, issued so many seconds from now."""
        own = Ed25519PrivateKey.from_private_bytes((self.stack.state_dir / TOKEN_KEY).read_bytes())
        kid = names.pop("kid", thumbprint(own.public_key().public_bytes_raw()))
        clock = SetClock(self.stack._clock.now() + at)
        about = {
            "issuer": "asynclave:local",
            "audience": "asynclave-gateway:local",
            "client_id": self.client_id,
            "scope": "attest:read",
        }
        return TokenSigner(key or own, kid).issue(
            **{**about, **names},
            jkt=self.jkt,
            clock=clock,
            rng=SystemRng(),
            ttl=300,
            jti_prefix="family.",
        )


@pytest.fixture
def node(stack: LocalStack, raw: RawGateway) -> Node:
    enrolled = raw.enrol(stack.ticket("client", "raw"))
    reply = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    return Node(stack, enrolled.client_id, reply.access_token, raw.identity.jkt)


def audited(stack: LocalStack) -> list[int]:
    """Return how many calls each gateway has heard of."""
    return [len(gateway.audit_log.read_text().splitlines()) for gateway in stack.gateways]


def test_envoy_finds_nothing_wrong_with_the_configuration(stack: LocalStack, folder: Path) -> None:
    files = {name: stack.state_dir / "ca.pem" for name in ("certificate", "gateway_ca", "jwks")}
    path = envoy.configuration(
        folder,
        gateways=["10.0.0.1:9443", "10.0.0.2:9443"],
        listen="0.0.0.0:443",
        federation="local",
        admin=folder / "admin",
        **{**files, "certificate": stack.state_dir / "server.pem"},
        key=stack.state_dir / "server.key",
    )
    checked = subprocess.run(
        [envoy.PROGRAM, "--mode", "validate", "-c", path],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr.lower()


def test_updates_travel_to_either_gateway_and_meet_in_one_release(
    stack: LocalStack, proxy: EnvoyProxy
) -> None:
    before = audited(stack)
    intake = open_run(stack, "travelling")
    for number in range(K):
        uploaded = client(stack, f"n{number}", proxy.address).upload(
            trained("travelling", 1.0 + 2 * number)
        )
        assert offer(intake, str(number), uploaded).accepted
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, initial() + 2.0)
    intake.close()
    assert all(after > earlier for earlier, after in zip(before, audited(stack), strict=True))


OTHER_KEY = Ed25519PrivateKey.generate()
FORGERIES: dict[str, tuple[str, Callable[[Node], str | None]]] = {
    "missing": ("TOKEN_MISSING", lambda node: None),
    "garbage": ("TOKEN_MALFORMED", lambda node: "garbage"),
    "expired": ("TOKEN_EXPIRED", lambda node: node.forged(at=-1000)),
    "future": ("TOKEN_NOT_YET_VALID", lambda node: node.forged(at=1000)),
    "audience": ("TOKEN_CLAIMS", lambda node: node.forged(audience="another")),
    "issuer": ("TOKEN_CLAIMS", lambda node: node.forged(issuer="another")),
    "key": ("TOKEN_SIGNATURE", lambda node: node.forged(key=OTHER_KEY)),
    "kid": ("TOKEN_UNKNOWN_KEY", lambda node: node.forged(key=OTHER_KEY, kid="another")),
    "changed": ("TOKEN_SIGNATURE", lambda node: node.token[:-8] + "AAAAAAAA"),
    "unsigned": ("TOKEN_MALFORMED", lambda node: node.token.rpartition(".")[0] + "."),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_bad_token_stops_at_envoy(
    stack: LocalStack, proxy: EnvoyProxy, raw: RawGateway, node: Node, forgery: str
) -> None:
    code, make = FORGERIES[forgery]
    before, denied = audited(stack), proxy.counter("http.nodes.jwt_authn.denied")
    assert raw.call("GetEvidence", EVIDENCE, make(node)) == code
    assert proxy.counter("http.nodes.jwt_authn.denied") == denied + 1
    assert audited(stack) == before


def test_a_gateway_checks_what_envoy_cannot(stack: LocalStack, raw: RawGateway, node: Node) -> None:
    proof = raw.proof("GetEvidence", node.token)
    assert raw.call("GetEvidence", EVIDENCE, node.token, proof=proof).evidence
    # Wherever Envoy sends it: twice, so that it is likely to be the other one once.
    for _ in range(2):
        replayed = raw.call("GetEvidence", EVIDENCE, node.token, proof=proof)
        assert replayed == "PROOF_REPLAYED"
    bearer = [("authorization", f"DPoP {node.token}")]
    assert raw.call("GetEvidence", EVIDENCE, node.token, metadata=bearer) == "PROOF_MISSING"
    thief = RawGateway(stack, raw.address)
    assert thief.call("GetEvidence", EVIDENCE, node.token) == "PROOF_INVALID"
    thief.close()
    assert raw.call("GetRelease", pb.GetReleaseRequest(), node.forged(scope="x")) == "TOKEN_SCOPE"
    stack.revoke("client", node.client_id)
    assert raw.call("GetEvidence", EVIDENCE, node.token) == "TOKEN_REVOKED"


def test_a_client_renews_a_token_that_envoy_finds_expired(
    stack: LocalStack, proxy: EnvoyProxy
) -> None:
    uploader = client(stack, "renewing", proxy.address)
    session = uploader._session
    assert session.call("GetEvidence", EVIDENCE).evidence
    credentials = session._credentials
    stale = Node(stack, session.enrol().client_id, "", credentials._identity.jkt)
    credentials._current = dataclasses.replace(
        credentials._current, access_token=stale.forged(at=-1000)
    )
    denied = proxy.counter("http.nodes.jwt_authn.denied")
    assert session.call("GetEvidence", EVIDENCE).evidence
    assert proxy.counter("http.nodes.jwt_authn.denied") == denied + 1
    uploader.close()


def test_envoy_follows_the_rotation_of_the_signing_key(
    stack: LocalStack, proxy: EnvoyProxy, raw: RawGateway, node: Node
) -> None:
    stack.rotate_token_key()
    token = raw.by_identity(node.client_id, bytes(16)).access_token
    proxy.fetch_keys()
    wait_until(lambda: not isinstance(raw.call("GetEvidence", EVIDENCE, token), str))
    assert raw.call("GetEvidence", EVIDENCE, node.token).evidence


def test_what_is_not_the_gateways_is_not_routed(raw: RawGateway) -> None:
    for method in ("/grpc.reflection.v1.ServerReflection/Info", "/grpc.health.v1.Health/Watch"):
        call = raw._channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
        assert caught.value.code() in {
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.UNAUTHENTICATED,
        }


def test_a_killed_gateway_is_routed_around_and_loses_nothing(folder: Path) -> None:
    recipe = dataclasses.replace(RECIPE, buffer_size=12)
    settings = dataclasses.replace(SETTINGS, recipe=recipe, k=12)
    with LocalStack(folder / "stack", settings) as stack, EnvoyProxy(stack, folder) as proxy:
        intake = SealedIntake(stack.server_config(), recipe, watch_interval=3600)
        intake.open("killing", LAYOUT, initial())
        nodes = [client(stack, f"n{number}", proxy.address) for number in range(12)]
        with ThreadPoolExecutor(4) as pool:
            for third, gateway in ((0, stack.gateways[0]), (1, stack.gateways[1])):
                numbers = range(4 * third, 4 * third + 4)
                uploads = [
                    pool.submit(nodes[n].upload, trained("killing", float(n))) for n in numbers
                ]
                kill(gateway.pid)
                for number, upload in zip(numbers, uploads, strict=True):
                    assert offer(intake, str(number), upload.result(60)).accepted
                wait_until(lambda: proxy.healthy() == 1)
                gateway.start()
                wait_until(lambda: proxy.healthy() == 2)
        for number in range(8, 12):
            uploaded = nodes[number].upload(trained("killing", float(number)))
            # The server's own gateway was killed in between, too.
            assert offer(intake, str(number), uploaded).accepted
        merge = intake.take_merge()
        assert merge is not None and merge.version == 1
        # Every update once, none lost.
        np.testing.assert_allclose(merge.params, initial() + np.mean(np.arange(12.0)), rtol=1e-6)
        intake.close()


def test_without_any_gateway_callers_are_refused_and_served_again_later(
    folder: Path, tmp_path: Path
) -> None:
    with LocalStack(tmp_path, SETTINGS) as stack, EnvoyProxy(stack, folder) as proxy:
        uploader = client(stack, "patient", proxy.address)
        assert uploader._session.call("GetEvidence", EVIDENCE).evidence
        for gateway in stack.gateways:
            kill(gateway.pid)
        raw = RawGateway(stack, proxy.address)
        assert raw.call("GetKeys", pb.KeysRequest()) == "StatusCode.UNAVAILABLE"
        restart = threading.Thread(target=lambda: [g.start() for g in stack.gateways])
        restart.start()
        assert uploader._session.call("GetEvidence", EVIDENCE).evidence
        restart.join()
        raw.close()
        uploader.close()
