"""What gives Envoy the gateways' key set, when the gateway is not there yet."""

from __future__ import annotations

import datetime
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.proto.gateway_pb2_grpc import GatewayServicer, add_GatewayServicer_to_server
from fl_server.stack.pki import ServerCertificate, create_server_certificate
from tests.support.envoy import deployed


class Gateway(GatewayServicer):
    def GetKeys(self, request: pb.KeysRequest, context: Any) -> pb.KeysReply:
        return pb.KeysReply(jwks_json="{}")


@pytest.fixture
def certificate(tmp_path: Path) -> ServerCertificate:
    return create_server_certificate(tmp_path, ("localhost",), datetime.datetime.now(datetime.UTC))


def serving(certificate: ServerCertificate, port: int) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(1))
    add_GatewayServicer_to_server(Gateway(), server)  # type: ignore[no-untyped-call]
    pair = (certificate.key.read_bytes(), certificate.certificate.read_bytes())
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    server.start()
    return server


def test_a_gateway_that_is_being_started_is_waited_for(
    certificate: ServerCertificate, tmp_path: Path
) -> None:
    target = tmp_path / "jwks.json"
    with ThreadPoolExecutor(1) as caller:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            arguments = [f"localhost:{port}", str(certificate.ca), str(target)]
            done = caller.submit(deployed("fetch_jwks").main, arguments)
            # The first attempt finds no gateway.
            other.accept()[0].close()
        server = serving(certificate, port)
        assert done.result() is None
        server.stop(None)
    assert target.read_text() == "{}"


def test_a_gateway_that_does_not_answer_is_named(
    certificate: ServerCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = deployed("fetch_jwks")
    monkeypatch.setattr(module, "_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        said = module.main([address, str(certificate.ca), str(tmp_path / "jwks.json")])
    assert said.startswith(f"GATEWAY_UNAVAILABLE: {address} ")
    assert not (tmp_path / "jwks.json").exists()
