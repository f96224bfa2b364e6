"""What happens when processes die, tokens run out or somebody floods the gateway."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fl_client.config import ClientConfig
from fl_client.uploader import SealedUploader
from fl_protocol.codes import AsynclaveError, GatewayUnavailable
from fl_protocol.identity import Enrolment
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.gateway.limits import LoadLimits
from fl_server.stack import LocalStack, StackSettings
from tee_sim.node_config import connect
from tests.support.processes import lives, wait_until
from tests.support.sealed import (
    RECIPE,
    K,
    RawGateway,
    audit_lines,
    client,
    initial,
    offer,
    open_run,
    sealed_by,
    submit,
    trained,
)

SETTINGS = StackSettings(recipe=RECIPE, k=K, node_patience=20.0, run_patience=10.0)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    with LocalStack(tmp_path, SETTINGS) as stack:
        yield stack


def processes_of(stack: LocalStack) -> list[int]:
    return [stack.gateway_pid, stack.launcher_pid, stack.enclave_pid]


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(lives(pid) for pid in pids))


def test_stop_leaves_no_process_and_may_be_called_twice(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, SETTINGS)
    stack.start()
    pids = processes_of(stack)
    assert all(lives(pid) for pid in pids)
    stack.stop()
    stack.stop()
    wait_until_gone(pids)


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from fl_server.stack import LocalStack\n"
        "stack = LocalStack(Path(sys.argv[1])); stack.start()\n"
        "print(stack.gateway_pid, stack.launcher_pid, stack.enclave_pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        parent.kill()
    wait_until_gone(pids)


def test_a_client_that_hangs_up_does_not_cost_the_others_their_enclave(stack: LocalStack) -> None:
    intake = open_run(stack, "hang-up")
    client(stack, "patient").upload(trained("hang-up", 1.0))
    epoch = intake.attested.epoch
    raw = RawGateway(stack)
    enrolled = raw.enrol(stack.ticket("server", "hasty"))
    token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
    for timeout in (0.001, 0.002, 0.004, 0.008):
        raw.call("GetEvidence", pb.EvidenceRequest(nonce=bytes(32)), token, timeout=timeout)
        raw.call("GetRelease", pb.GetReleaseRequest(run_id="x"), token, timeout=timeout)
    second = client(stack, "second").upload(trained("hang-up", 1.0))
    assert (second.receipt.epoch, second.receipt.version) == (epoch, 1)
    raw.close()
    intake.close()


def test_of_many_identical_updates_at_once_exactly_one_counts(stack: LocalStack) -> None:
    intake = open_run(stack, "identical")
    uploader = client(stack, "eager")
    sealed, membership = sealed_by(uploader, trained("identical", 1.0))
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: submit(uploader, sealed, membership), range(1000)))
    assert len({(reply.payload, reply.signature) for reply in replies}) == 1
    assert client(stack, "other").upload(trained("identical", 3.0)).receipt.version == 1
    intake.close()


def enrolment_of(stack: LocalStack, name: str) -> Enrolment:
    config = ClientConfig.load(stack.client_config(name))
    with connect(config, SystemClock(), SystemRng()).session as session:
        return session.enrol()


def test_a_stack_started_again_keeps_its_members(tmp_path: Path) -> None:
    with LocalStack(tmp_path, SETTINGS) as stack:
        first = enrolment_of(stack, "member")
    with LocalStack(tmp_path, SETTINGS, gateway_port=0) as stack:
        open_run(stack, "again").close()
        config = ClientConfig.load(stack.client_config("member"))
        again = SealedUploader(dataclasses.replace(config, ticket=None))
        uploaded = again.upload(trained("again", 1.0))
        assert uploaded.receipt.client_id == first.client_id


def test_a_child_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stack = LocalStack(tmp_path, SETTINGS, gateway_port=taken.getsockname()[1])
        with pytest.raises(AsynclaveError, match="the gateway ended") as failure:
            stack.start()
    assert "CONFIG_INVALID: The gateway cannot listen on 127.0.0.1:" in str(failure.value)
    assert "Traceback" not in str(failure.value)
    with pytest.raises(GatewayUnavailable, match="not started"):
        _ = stack.address


def test_a_gateway_that_is_down_gives_a_clear_error(stack: LocalStack) -> None:
    config = ClientConfig.load(stack.client_config("early"))
    stack.stop()
    uploader = SealedUploader(dataclasses.replace(config, patience=1.0))
    with pytest.raises(GatewayUnavailable, match=r"^GATEWAY_UNAVAILABLE: .*127\.0\.0\.1"):
        uploader.upload(trained("down", 1.0))


def test_a_killed_gateway_is_waited_for_and_the_run_goes_on(stack: LocalStack) -> None:
    intake = open_run(stack, "gateway-killed", watch_interval=0.1)
    uploaders = [client(stack, f"node-{number}") for number in range(3)]
    for node, uploader in enumerate(uploaders[:2]):
        offer(intake, str(node), uploader.upload(trained("gateway-killed", 1.0)))
    merge = intake.take_merge()
    assert merge is not None
    os.kill(stack.gateway_pid, signal.SIGKILL)
    restart = threading.Thread(target=stack.restart_gateway)
    restart.start()
    for node, uploader in enumerate(uploaders[1:], start=1):
        update = trained("gateway-killed", 1.0, version=1, base=merge.params)
        outcome = offer(intake, str(node), uploader.upload(update), version=1)
        assert outcome.accepted, outcome
    restart.join()
    again = intake.take_merge()
    assert again is not None and again.version == 2
    np.testing.assert_allclose(again.params, initial() + 2.0)
    intake.close()


def test_a_killed_enclave_is_replaced_and_the_next_update_sealed_to_its_successor(
    stack: LocalStack,
) -> None:
    intake = open_run(stack, "enclave-killed", watch_interval=0.1)
    uploaders = [client(stack, f"node-{number}") for number in range(2)]
    for node, uploader in enumerate(uploaders):
        offer(intake, str(node), uploader.upload(trained("enclave-killed", 1.0)))
    merge = intake.take_merge()
    assert merge is not None
    old_enclave, old_epoch = stack.enclave_pid, intake.attested.epoch
    # The client has attested the old enclave and still holds that appraisal.
    os.kill(old_enclave, signal.SIGKILL)
    wait_until_gone([old_enclave])
    update = trained("enclave-killed", 1.0, version=1, base=merge.params)
    uploaded = uploaders[0].upload(update)
    assert uploaded.receipt.epoch > old_epoch
    assert stack.enclave_pid != old_enclave
    assert offer(intake, "0", uploaded, version=1).accepted
    assert offer(intake, "1", uploaders[1].upload(update), version=1).accepted
    again = intake.take_merge()
    assert again is not None and again.version == 2
    np.testing.assert_allclose(again.params, merge.params + 1.0)
    intake.close()


def test_a_reply_naming_an_unknown_run_makes_the_server_open_it_again(stack: LocalStack) -> None:
    # Nothing watches here: only the client's refusal tells the server.
    intake = open_run(stack, "told-by-reply", watch_interval=3600)
    hasty = ClientConfig.load(stack.client_config("hasty"))
    uploader = SealedUploader(dataclasses.replace(hasty, run_patience=0.0))
    client(stack, "early").upload(trained("told-by-reply", 1.0))
    os.kill(stack.enclave_pid, signal.SIGKILL)
    with pytest.raises(AsynclaveError, match=r"^RUN_UNKNOWN"):
        uploader.upload(trained("told-by-reply", 1.0))
    record = ConfigRecord({"payload": b"", "signature": b"", "code": "RUN_UNKNOWN"})
    outcome = intake.offer(RecordDict({"asynclave-receipt": record}), "1", 0, initial(), 0.0)
    assert not outcome.accepted
    late = client(stack, "late").upload(trained("told-by-reply", 1.0))
    assert offer(intake, "2", late).accepted
    intake.close()


def tokens_issued(stack: LocalStack, name: str) -> int:
    lines = audit_lines(stack).splitlines()
    return sum("IssueToken" in line and name in line for line in lines)


def test_an_access_token_is_renewed_in_time(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, token_ttl=2)
    with LocalStack(tmp_path, settings) as stack:
        intake = open_run(stack, "renewal")
        uploader = client(stack, "long-lived")
        uploader.upload(trained("renewal", 1.0))
        issued = tokens_issued(stack, "long-lived")
        SystemClock().sleep(2.5)
        with pytest.raises(AsynclaveError, match=r"^RUN_REPEATED"):
            uploader.upload(trained("renewal", 1.0))
        assert tokens_issued(stack, "long-lived") > issued
        intake.close()


def test_a_flood_is_refused_while_others_are_served(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, limits=LoadLimits(rate=0.01, burst=10))
    with LocalStack(tmp_path, settings) as stack:
        raw = RawGateway(stack)
        enrolled = raw.enrol(stack.ticket("client", "flood"))
        token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
        request = pb.EvidenceRequest(nonce=bytes(32))
        answers = [raw.call("GetEvidence", request, token) for _ in range(12)]
        assert answers[-1] == "OVERLOADED"
        assert sum(answer != "OVERLOADED" for answer in answers) == 10
        raw.close()
        open_run(stack, "others").close()


def test_a_token_without_its_key_uses_up_nothing_of_its_owners(tmp_path: Path) -> None:
    limits = LoadLimits(rate=0.01, burst=10)
    settings = dataclasses.replace(SETTINGS, limits=limits, behind_proxy=True)
    with LocalStack(tmp_path, settings) as stack:
        raw = RawGateway(stack)
        enrolled = raw.enrol(stack.ticket("client", "victim"))
        token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
        request = pb.EvidenceRequest(nonce=bytes(32))
        stolen = [
            ("dpop", "junk"),
            ("authorization", f"DPoP {token}"),
            ("x-forwarded-for", "192.0.2.1"),
        ]
        answers = [raw.call("GetEvidence", request, metadata=stolen) for _ in range(12)]
        assert set(answers) == {"PROOF_INVALID", "OVERLOADED"}
        assert raw.call("GetEvidence", request, token).evidence
        raw.close()


def test_an_address_whose_tokens_are_refused_is_refused_before_they_are_verified(
    tmp_path: Path,
) -> None:
    settings = dataclasses.replace(
        SETTINGS, limits=LoadLimits(rate=0.01, burst=10), behind_proxy=True
    )
    with LocalStack(tmp_path, settings) as stack:
        raw = RawGateway(stack)
        enrolled = raw.enrol(stack.ticket("client", "neighbour"))
        token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
        request = pb.EvidenceRequest(nonce=bytes(32))

        def ask(presented: str, address: str) -> Any:
            metadata = [
                ("dpop", raw.proof("GetEvidence", presented)),
                ("authorization", f"DPoP {presented}"),
                ("x-forwarded-for", address),
            ]
            return raw.call("GetEvidence", request, metadata=metadata)

        forged = token[:-8] + ("AAAAAAAA" if token[-8:] != "AAAAAAAA" else "BBBBBBBB")
        bad = [forged, "junk"] * 2
        assert {ask(each, "192.0.2.1") for each in bad} == {"TOKEN_SIGNATURE", "TOKEN_MALFORMED"}
        assert ask(token, "192.0.2.1").evidence, "a handful costs no neighbour anything"
        answers = [ask(forged, "192.0.2.1") for _ in range(8)]
        assert answers == ["TOKEN_SIGNATURE"] * 6 + ["OVERLOADED"] * 2
        assert ask(token, "192.0.2.1") == "OVERLOADED", "nothing is verified any more"
        assert ask(token, "192.0.2.2").evidence
        lines = map(json.loads, audit_lines(stack).splitlines())
        assert sum((x["event"], x["code"]) == ("GetEvidence", "OVERLOADED") for x in lines) == 3
        raw.close()


def test_an_address_whose_tokens_are_refused_may_ask_for_another(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, limits=LoadLimits(rate=0.01, burst=10))
    with LocalStack(tmp_path, settings) as stack:
        raw = RawGateway(stack)
        enrolled = raw.enrol(stack.ticket("client", "late"))
        answers = [raw.call("GetEvidence", pb.EvidenceRequest(), "junk") for _ in range(11)]
        assert answers == ["TOKEN_MALFORMED"] * 10 + ["OVERLOADED"]
        assert raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
        raw.close()


def test_the_gateway_stays_small_and_loads_no_framework(stack: LocalStack) -> None:
    status = Path(f"/proc/{stack.gateway_pid}/status").read_text()
    resident = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS"))
    assert resident < 150 * 1024
    maps = Path(f"/proc/{stack.gateway_pid}/maps").read_text()
    assert "/torch/" not in maps and "/flwr/" not in maps
