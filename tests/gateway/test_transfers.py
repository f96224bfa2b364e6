"""What bodies and downloads may cost the gateway and the enclave behind it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fl_client.updates import LocalUpdate
from fl_protocol.codes import RunRejected
from fl_protocol.encoding import b64url_decode
from fl_protocol.ports import SystemClock
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.wire import CODE_METADATA
from fl_server.gateway.limits import LoadLimits
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.layout import Layout
from strategies.update import digest_of
from tests.support.sealed import (
    LAYOUT,
    RECIPE,
    TASK,
    K,
    audit_lines,
    client,
    open_run,
    reader_of,
    sealed_by,
    submit,
    trained,
)

LARGE = 4_000_000
LIMITS = LoadLimits(max_transfers_per_client=1, write_deadline=1.0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    settings = StackSettings(recipe=RECIPE, k=K, limits=LIMITS, run_patience=0.0)
    with LocalStack(tmp_path_factory.mktemp("stack"), settings) as stack:
        yield stack


def test_an_update_larger_than_the_open_runs_is_refused_before_its_body_is_read(
    stack: LocalStack,
) -> None:
    intake = open_run(stack, "small")
    uploader = client(stack, "large")
    longer = trained("small", np.zeros(LAYOUT.num_params + 1, np.float32))
    sealed, membership = sealed_by(uploader, longer)
    header = pb.SubmitHeader(
        protected=sealed.protected,
        wrap=sealed.wrap,
        tags=sealed.tags,
        signature=sealed.signature,
        membership=membership,
    )

    def header_only() -> Iterator[Any]:
        yield pb.SubmitRequest(header=header)

    with pytest.raises(Exception, match=r"^TOO_LARGE: .* at most 80 bytes"):
        uploader._session.call("SubmitUpdate", header_only)
    intake.close()


def test_without_an_open_run_no_body_is_read(tmp_path: Path) -> None:
    with LocalStack(tmp_path, StackSettings(recipe=RECIPE, k=K)) as fresh:
        uploader = client(fresh, "early")
        sealed, membership = sealed_by(uploader, trained("none", 1.0))
        with pytest.raises(Exception, match=r"^RUN_UNKNOWN"):
            submit(uploader, sealed, membership)


def release_of(stack: LocalStack, run_id: str, num_params: int, delta: float) -> SealedIntake:
    """Open a run and have it release version 1."""
    zeros = np.zeros(num_params, np.float32)
    layout = Layout.of({"weight": zeros})
    intake = SealedIntake(stack.server_config(), RECIPE)
    intake.open(run_id, layout, zeros)
    vector = np.full(num_params, delta, np.float32)
    for name in ("first", "second"):
        node = client(stack, f"{name}-{run_id}-{delta:g}")
        node.upload(LocalUpdate(run_id, 0, digest_of(zeros), layout.digest, TASK, vector, 10))
    return intake


def test_a_run_is_not_opened_again_behind_a_release_it_handed_out(stack: LocalStack) -> None:
    raw, token = reader_of(stack, "curious")
    intake = release_of(stack, "same-name", 8, 1.0)
    wanted = pb.GetReleaseRequest(run_id="same-name", version=1)
    handed_out = raw.call("GetRelease", wanted, token)
    intake.close()

    with pytest.raises(RunRejected, match="RUN_REGRESSED"):
        release_of(stack, "same-name", 8, 2.0)

    assert raw.call("GetRelease", wanted, token) == handed_out
    release_of(stack, "another-name", 8, 2.0).close()
    # The newest that was handed out stays to be had; of other versions the enclave knows nothing.
    assert raw.call("GetRelease", wanted, token) == handed_out
    earlier = pb.GetReleaseRequest(run_id="same-name", version=0)
    assert raw.call("GetRelease", earlier, token) == "RUN_UNKNOWN"
    raw.close()


def test_a_release_asked_for_again_does_not_occupy_the_enclave(stack: LocalStack) -> None:
    intake = release_of(stack, "popular", 8, 1.0)
    raw, token = reader_of(stack, "fan")
    wanted = pb.GetReleaseRequest(run_id="popular", version=1)
    first = raw.call("GetRelease", wanted, token)
    os.kill(stack.enclave_pid, signal.SIGSTOP)
    try:
        assert raw.call("GetRelease", wanted, token, timeout=5) == first
    finally:
        os.kill(stack.enclave_pid, signal.SIGCONT)
    raw.close()
    intake.close()


def test_a_download_left_unread_gives_its_place_back(stack: LocalStack) -> None:
    intake = release_of(stack, "unread", LARGE, 0.001)
    raw, token = reader_of(stack, "sleeper")
    wanted = pb.GetReleaseRequest(run_id="unread", version=1)
    metadata = [
        ("dpop", raw.proof("GetRelease", token)),
        ("authorization", f"DPoP {token}"),
    ]
    unread = raw._stub.GetRelease(wanted, metadata=metadata)
    next(unread)
    assert raw.call("GetRelease", wanted, token) == "OVERLOADED"
    clock = SystemClock()
    deadline = clock.now() + 20
    while '"DEADLINE"' not in audit_lines(stack) and clock.now() < deadline:
        clock.sleep(0.1)
    taken = raw.call("GetRelease", wanted, token)
    assert sum(len(part.chunk) for part in taken) == 4 * LARGE
    unread.cancel()
    raw.close()
    intake.close()


def test_a_server_that_is_revoked_gets_no_more_of_a_download(stack: LocalStack) -> None:
    intake = release_of(stack, "half", LARGE, 0.001)
    raw, token = reader_of(stack, "leaving")
    metadata = [("dpop", raw.proof("GetRelease", token)), ("authorization", f"DPoP {token}")]
    wanted = pb.GetReleaseRequest(run_id="half", version=1)
    parts = raw._stub.GetRelease(wanted, metadata=metadata, timeout=20)
    next(parts)
    stack.revoke("jti", json.loads(b64url_decode(token.split(".")[1]))["jti"])
    with pytest.raises(grpc.RpcError) as caught:
        list(parts)
    assert dict(caught.value.trailing_metadata())[CODE_METADATA] == "TOKEN_REVOKED"
    raw.close()
    intake.close()
