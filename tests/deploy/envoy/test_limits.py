"""What a real Envoy lets through, and how it refuses the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.wire import RETRY_METADATA
from fl_server.gateway.limits import LoadLimits
from fl_server.stack import LocalStack
from tests.support import envoy
from tests.support.envoy import SETTINGS, EnvoyProxy
from tests.support.processes import wait_until
from tests.support.sealed import RawGateway, client

pytestmark = pytest.mark.skipif(not envoy.PROGRAM.exists(), reason=envoy.REASON)

EVIDENCE = pb.EvidenceRequest(nonce=bytes(32))


def test_a_client_waits_as_long_as_a_rate_limit_says(stack: LocalStack, folder: Path) -> None:
    with EnvoyProxy(stack, folder, rate=8, burst=8) as proxy:
        uploader = client(stack, "hurried", proxy.address)
        for _ in range(20):
            assert uploader._session.call("GetEvidence", EVIDENCE).evidence
        limited = proxy.counter("nodes.http_local_rate_limit.rate_limited")
        assert limited > 0
        refusal = first_refusal(stack, proxy)
        trailing = dict(refusal.trailing_metadata())
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert trailing["asynclave-code"] == "OVERLOADED"
        assert int(trailing[RETRY_METADATA]) > 0
        uploader.close()


def first_refusal(stack: LocalStack, proxy: EnvoyProxy) -> grpc.RpcError:
    raw = RawGateway(stack, proxy.address)
    try:
        for _ in range(1000):
            raw._stub.GetKeys(pb.KeysRequest(), timeout=5)
    except grpc.RpcError as error:
        return error
    finally:
        raw.close()
    raise AssertionError("never refused")


@contextlib.contextmanager
def from_address(source: str, target: str) -> Iterator[str]:
    """Relay one connection, which comes from another address of this machine, to a target."""
    host, _, port = target.rpartition(":")

    def relay() -> None:
        near, _ = listener.accept()
        far = socket.create_connection((host, int(port)), source_address=(source, 0))
        with near, far:
            ways = {near: far, far: near}
            while True:
                for ready in select.select(list(ways), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    ways[ready].sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=relay)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    thread.join()


def test_a_flood_from_one_address_leaves_others_alone(stack: LocalStack, folder: Path) -> None:
    with (
        EnvoyProxy(stack, folder, address_rate=1, address_burst=4) as proxy,
        from_address("127.0.0.9", proxy.address) as elsewhere,
    ):
        assert first_refusal(stack, proxy).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = RawGateway(stack, elsewhere)
        assert other.call("GetKeys", pb.KeysRequest()).jwks_json
        other.close()


def test_calls_beyond_the_bound_are_overload_and_not_an_outage(
    stack: LocalStack, folder: Path
) -> None:
    with EnvoyProxy(stack, folder, most_requests=1) as proxy:
        raw = RawGateway(stack, proxy.address)
        ended: queue.Queue[None] = queue.Queue()
        enrolled = raw.enrol(stack.ticket("client", "slow"))
        token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token

        def never() -> Iterator[pb.SubmitRequest]:
            ended.get()
            yield from ()

        metadata = [
            ("dpop", raw.proof("SubmitUpdate", token)),
            ("authorization", f"DPoP {token}"),
        ]
        held = raw._stub.SubmitUpdate.future(never(), metadata=metadata, timeout=20)
        wait_until(lambda: proxy.counter("cluster.gateways.upstream_rq_active") == 1)
        assert raw.call("GetKeys", pb.KeysRequest()) == "OVERLOADED"
        ended.put(None)
        assert held.exception(20) is not None
        raw.close()


def test_callers_cannot_have_a_gateway_ejected(tmp_path: Path, folder: Path) -> None:
    limits = LoadLimits(request_deadline=0.1)
    settings = dataclasses.replace(SETTINGS, limits=limits)
    with LocalStack(tmp_path, settings) as stack, EnvoyProxy(stack, folder) as proxy:
        raw = RawGateway(stack, proxy.address)
        enrolled = raw.enrol(stack.ticket("client", "silent"))
        token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
        for _ in range(10):
            silence = queue.Queue[pb.SubmitRequest]()
            # A deadline that passed at the gateway looks like its failure.
            assert raw.call("SubmitUpdate", iter(silence.get, None), token) == "DEADLINE"
        assert proxy.counter("cluster.gateways.outlier_detection.ejections_enforced_total") == 0
        assert proxy.healthy() == 2
        raw.close()


def test_strangers_are_told_apart_by_what_the_proxy_says_last(tmp_path: Path) -> None:
    limits = LoadLimits(rate=0.001, burst=4)
    settings = dataclasses.replace(SETTINGS, gateways=1, limits=limits)
    with LocalStack(tmp_path, settings) as stack:
        raw = RawGateway(stack)

        def ask(forwarded: str) -> object:
            metadata = [("x-forwarded-for", forwarded)]
            return raw.call("GetKeys", pb.KeysRequest(), metadata=metadata)

        answers = [ask(f"10.9.9.{number}, 10.0.0.1") for number in range(6)]
        assert [answer == "OVERLOADED" for answer in answers] == [False] * 4 + [True] * 2
        assert ask("10.0.0.1, 10.0.0.2") != "OVERLOADED"
        raw.close()


def test_envoy_overwrites_what_a_caller_says_about_its_address(
    tmp_path: Path, folder: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, limits=LoadLimits(rate=0.001, burst=10))
    with LocalStack(tmp_path, settings) as stack, EnvoyProxy(stack, folder) as proxy:
        raw = RawGateway(stack, proxy.address)
        answers = [
            raw.call(
                "GetKeys", pb.KeysRequest(), metadata=[("x-forwarded-for", f"10.0.0.{number}")]
            )
            for number in range(2 * 10 + 2)
        ]
        assert "OVERLOADED" in answers
        raw.close()
