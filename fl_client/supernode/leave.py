"""``python -m fl_client.supernode.leave NODE_ID ARGUMENT...``: take a dead SuperNode's leave.

Sends what a SuperNode sends when it ends gracefully, signed with the node's own key. A process of
its own, so that the keeper needs none of Flower's memory.
"""

from __future__ import annotations

import sys

import httpx

from fl_protocol.flower import require_supported

try:
    from flwr.common.args import try_obtain_root_certificates
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor
    from flwr.supernode.cli.flower_supernode import (
        _parse_args_run_supernode,
        _try_setup_client_authentication,
    )
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
except ImportError:
    require_supported()
    raise


def main(arguments: list[str]) -> None:
    """Have the SuperLink forget that a node is connected; a SuperLink that is away is no error."""
    node_id, options = int(arguments[0]), _parse_args_run_supernode().parse_args(arguments[1:])
    keys = _try_setup_client_authentication(options)
    if keys is None:
        # A node without a key registers itself under a new one.
        return
    interceptors: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(*keys),
    ]
    certificates = try_obtain_root_certificates(options, options.superlink)
    try:
        with FleetHttpClient.from_server_address(
            options.superlink, options.insecure, certificates, interceptors
        ) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    except (httpx.HTTPError, RuntimeError) as error:
        print(f"The SuperLink did not take the goodbye: {error}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
