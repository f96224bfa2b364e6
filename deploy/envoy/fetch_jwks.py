"""Write a gateway's key set where Envoy reads it: ``fetch_jwks.py HOST:PORT CA.pem jwks.json``.

To be run before Envoy starts, after a token-signing key was rotated or revoked, and now and then.
Envoy notices the new file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc

from fl_protocol.ports import LocalDisk
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.proto.gateway_pb2_grpc import GatewayStub

_SECONDS = 10.0
# Envoy may run as another user, and the keys are public.
_MODE = 0o644


def fetch(gateway: str, ca: Path, target: Path) -> None:
    """Replace a file by the key set of a gateway.

    Parameters
    ----------
    gateway : str
        "host:port".
    ca : Path
        PEM certificates of the authority of its certificate.
    target : Path
        Replaced atomically, mode 0644.
    """
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(gateway, credentials, options) as channel:
        stub = GatewayStub(channel)  # type: ignore[no-untyped-call]
        # A gateway that is just being started is waited for.
        reply = stub.GetKeys(pb.KeysRequest(), timeout=_SECONDS, wait_for_ready=True)
    LocalDisk().write_atomic(target, reply.jwks_json.encode(), _MODE)


def main(arguments: list[str]) -> str | None:
    """Fetch the key set that the arguments describe; return what went wrong."""
    if len(arguments) != 3:
        return __doc__
    gateway, ca, target = arguments
    try:
        fetch(gateway, Path(ca), Path(target))
    except grpc.RpcError as error:
        return f"GATEWAY_UNAVAILABLE: {gateway} does not give its key set: {error.details()}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
