"""Replies that get lost, and processes of one node that renew at once: nobody is locked out."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_client.config import ClientConfig
from fl_protocol.codes import Code, GatewayUnavailable
from fl_protocol.identity import IdentityStore
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.session import Session
from fl_protocol.wire import Wire
from fl_server.stack import LocalStack
from tests.gateway.test_replicas import SETTINGS
from tests.support.sealed import audit_lines

EVIDENCE = pb.EvidenceRequest(nonce=bytes(32))


class LossyWire:
    """Delivers every call; of some methods it loses the first replies."""

    def __init__(self, inner: Wire, losses: dict[str, int]) -> None:
        self._inner, self._losses = inner, Counter(losses)

    def invoke(self, method: str, request: Any, read: Callable[[Any], Any], *rest: Any) -> Any:
        reply = self._inner.invoke(method, request, read, *rest)
        if self._losses[method]:
            self._losses[method] -= 1
            raise GatewayUnavailable(Code.GATEWAY_UNAVAILABLE)
        return reply

    def close(self) -> None:
        self._inner.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    # So short that tokens are renewed all the time.
    settings = dataclasses.replace(SETTINGS, gateways=1, token_ttl=2)
    with LocalStack(tmp_path_factory.mktemp("stack"), settings) as stack:
        yield stack


def session(bundle: Path, **losses: int) -> Session:
    """A process of the node that has this bundle."""
    config, clock, rng = ClientConfig.load(bundle), SystemClock(), SystemRng()
    store = IdentityStore(Path(config.identity_dir))
    identity, ca_pem = store.load_or_create(rng), config.ca_pem.encode()
    wire = LossyWire(Wire(config.gateway, ca_pem, identity, clock, rng, 20.0), losses)
    return Session(
        config.gateway,
        ca_pem,
        identity,
        config.ticket,
        clock,
        rng,
        store=store,
        patience=10.0,
        transport=wire,
    )


def codes_of(stack: LocalStack, client_id: str) -> Counter[tuple[str, str]]:
    lines = map(json.loads, audit_lines(stack).splitlines())
    return Counter(
        (line["event"], line["code"]) for line in lines if line.get("client") == client_id
    )


def test_an_enrolment_whose_reply_was_lost_is_had_by_asking_again(stack: LocalStack) -> None:
    with session(stack.client_config("enrolling"), Enrol=2) as node:
        enrolment = node.enrol()
    assert codes_of(stack, enrolment.client_id) == {("Enrol", "OK"): 3}


def test_an_enrolment_whose_process_died_is_had_by_the_next_process(stack: LocalStack) -> None:
    bundle = stack.client_config("dying")
    with session(bundle, Enrol=1) as node, pytest.raises(GatewayUnavailable):
        node._credentials.enrolled()
    with session(bundle) as later:
        assert later.call("GetEvidence", EVIDENCE).evidence


def test_a_refresh_whose_reply_was_lost_is_had_by_asking_again(stack: LocalStack) -> None:
    with session(stack.client_config("renewing"), IssueToken=2) as node:
        assert node.call("GetEvidence", EVIDENCE).evidence
        codes = codes_of(stack, node.enrol().client_id)
    # All by the one refresh token, which is not taken for a stolen one.
    assert codes == {("Enrol", "OK"): 1, ("IssueToken", "OK"): 3, ("GetEvidence", "OK"): 1}


def test_a_refresh_whose_process_died_is_had_by_the_next_process(stack: LocalStack) -> None:
    bundle = stack.client_config("dying-later")
    with session(bundle, IssueToken=1) as node, pytest.raises(GatewayUnavailable):
        node._credentials.token()
    with session(bundle) as later:
        assert later.call("GetEvidence", EVIDENCE).evidence
        codes = codes_of(stack, later.enrol().client_id)
    assert codes[("IssueToken", "OK")] == 2 and not any(code != "OK" for _, code in codes)


_CALL_AGAIN_AND_AGAIN = """
import sys
from pathlib import Path
from fl_protocol.ports import SystemClock
from tests.gateway.test_lost_replies import EVIDENCE, session
clock = SystemClock()
with session(Path(sys.argv[1])) as node:
    for _ in range(25):
        assert node.call("GetEvidence", EVIDENCE).evidence
        clock.sleep(0.2)
    print(node.enrol().client_id)
"""


def test_processes_of_one_node_that_begin_at_once_share_enrolment_and_tokens(
    stack: LocalStack,
) -> None:
    bundle = stack.client_config("shared")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CALL_AGAIN_AND_AGAIN, str(bundle)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = {process.communicate()[0].strip() for process in processes}
    assert {process.returncode for process in processes} == {0} and len(said) == 1
    codes = codes_of(stack, said.pop())
    assert codes[("Enrol", "OK")] == 1
    assert codes[("GetEvidence", "OK")] == 3 * 25
    assert {code for _, code in codes} == {"OK"}
    # A token each would be as many renewals again for each process.
    assert codes[("IssueToken", "OK")] < 25
