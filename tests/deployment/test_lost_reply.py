"""A node that is lost in the middle of its reply, on a real SuperLink."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from asynclave.deployment import Deployment, down, up
from asynclave.deployment.flower import create_node_key
from tests.deployment.conftest import QUICKSTART
from tests.deployment.flower_cli import Run, flwr

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(400)]


def begin_a_reply(deployment: Deployment, key: Path, begun: threading.Event) -> None:
    """Do what a SuperNode does with a task up to where it would send the reply's objects."""
    private = load_ssh_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    public = private.public_key()
    interceptors = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private, public),
    ]
    ca = (deployment.state.tls / "ca.pem").read_bytes()
    address = deployment.status.superlink
    with FleetHttpClient.from_server_address(address, False, ca, interceptors) as client:
        request = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=30)
        node = Node(node_id=client.ActivateNode(request).node_id)
        while not (pulled := client.PullMessages(PullMessagesRequest(node=node))).messages_list:
            time.sleep(0.2)
        arrays = ArrayRecord({"weights": Array(np.ones(10, np.float32))})
        reply = Message(
            RecordDict({"arrays": arrays}), reply_to=message_from_proto(pulled.messages_list[0])
        )
        reply.metadata.__dict__["_message_id"] = reply.object_id
        client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[1.0],
            )
        )
        begun.set()


def test_a_node_lost_in_its_reply_does_not_hold_up_the_others(tmp_path: Path) -> None:
    # given two nodes, and a third that begins its first reply and is never seen again
    state, begun = tmp_path / "state", threading.Event()
    try:
        deployment = up(state, 2, False, warm=True)
        key = create_node_key(tmp_path, "lost")
        flwr(deployment.environment, "supernode", "register", f"{key}.pub")
        lost = threading.Thread(target=begin_a_reply, args=(deployment, key, begun), daemon=True)
        lost.start()
        # when
        settings = ["--run-config", "num-server-rounds=3 fraction-evaluate=0.0"]
        arguments = [*deployment.run_arguments(QUICKSTART), *settings]
        run = Run(deployment.environment, arguments, tmp_path / "run.log")
        # then the run ends long before the SuperLink gives the reply up
        status = run.wait(patience=170)
        assert begun.is_set()
        assert status == "finished:completed", run.log
    finally:
        down(state)
