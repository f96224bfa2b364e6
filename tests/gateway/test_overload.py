"""More uploads than the gateway takes at a time: refused at once, none acknowledged and lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import grpc
import numpy as np
import pytest

from fl_client.sealing import submit_messages
from fl_client.uploader import SealedUploader
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.wire import CODE_METADATA, RETRY_METADATA
from fl_server.gateway.limits import LoadLimits
from fl_server.stack import LocalStack, StackSettings
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
    trained,
)

NODES = 8


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    settings = StackSettings(
        recipe=RECIPE, k=K, limits=LoadLimits(max_uploads=1), node_patience=60.0
    )
    with LocalStack(tmp_path_factory.mktemp("stack"), settings) as stack:
        yield stack


def begin(stack: LocalStack, uploader: SealedUploader, messages: Iterator[Any]) -> Any:
    """Begin a call with the node's own token and proof; return what will have its reply."""
    raw = RawGateway(stack)
    identity = uploader._connection.store.load_or_create(uploader._rng)
    token = uploader._session._credentials.token()
    proof = raw.proof("SubmitUpdate", token, identity)
    metadata = [("dpop", proof), ("authorization", f"DPoP {token}")]
    return raw._stub.SubmitUpdate.future(messages, metadata=metadata, timeout=30)


def test_an_upload_too_many_is_told_when_to_come_back(stack: LocalStack) -> None:
    intake = open_run(stack, "told")
    slow = client(stack, "slow")
    message, go_on = whole(slow, "told"), threading.Event()

    def held() -> Iterator[Any]:
        yield pb.SubmitRequest(header=message.header)
        go_on.wait(20)
        yield pb.SubmitRequest(segment=message.segment)

    first = begin(stack, slow, held())
    for number in count():
        other = client(stack, f"other-{number}")
        second = begin(stack, other, iter([whole(other, "told")]))
        # It is taken in as long as the slow one has not begun.
        if second.exception(timeout=20) is not None:
            break
    assert second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(second.trailing_metadata())
    assert trailing[CODE_METADATA] == "OVERLOADED"
    assert int(trailing[RETRY_METADATA]) > 0
    go_on.set()
    assert first.result(timeout=20).payload
    intake.close()


def whole(uploader: SealedUploader, run_id: str) -> pb.SubmitRequest:
    """Return the one message of a small update."""
    sealed, membership = sealed_by(uploader, trained(run_id, 1.0))
    (message,) = submit_messages(sealed, membership)
    return message


def test_everything_acknowledged_under_overload_is_in_a_release(stack: LocalStack) -> None:
    intake = open_run(stack, "crowd")
    nodes = [client(stack, f"node-{number}") for number in range(NODES)]
    deltas = [float(2**number) for number in range(NODES)]
    with ThreadPoolExecutor(NODES) as pool:
        uploads = list(
            pool.map(lambda node, delta: node.upload(trained("crowd", delta)), nodes, deltas)
        )
    assert {upload.receipt.outcome for upload in uploads} == {"accepted"}
    assert '"OVERLOADED"' in audit_lines(stack)
    for number, upload in enumerate(uploads):
        assert offer(intake, str(number), upload).accepted
    while intake.take_merge():
        pass
    assert intake.version == NODES // K
    # Each merge adds the mean of two; powers of two show that each update is in once.
    np.testing.assert_array_equal(intake.params, initial() + np.float32(sum(deltas) / K))
    intake.close()
