"""A release that an enclave handed out, and that did not reach its server."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asynclave.verification.audit import audit
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack
from tests.gateway.resumed.support import RUN, abandon, server
from tests.support.processes import kill
from tests.support.sealed import K, client, initial, offer, reader_of, trained


def test_a_release_that_somebody_else_fetched_first_is_not_lost_with_its_enclave(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    nodes = [client(stack, f"node-{number}") for number in range(K)]
    for node in nodes:
        node.upload(trained(RUN, 1.0))
    reader, token = reader_of(stack, "reader")
    assert reader.call("GetRelease", pb.GetReleaseRequest(run_id=RUN, version=1), token)[0].header
    reader.close()
    kill(stack.enclave_pid)
    intake.follow_enclave()
    assert intake.version == 1
    intake.close()


def release_lost_on_its_way(stack: LocalStack, intake: SealedIntake) -> None:
    """Let the enclave hand a release out, lose it, and end the enclave."""
    for number in range(K):
        client(stack, f"node-{number}").upload(trained(RUN, 1.0))
    keeper = intake._opened.keeper
    assert keeper is not None
    keeper.fetch()
    request = pb.GetReleaseRequest(run_id=RUN, version=1)
    intake._connection.session.receive("GetRelease", request, lambda replies: list(replies))
    # The gateway may be lost with it.
    stack.restart_gateway()
    kill(stack.enclave_pid)


def test_a_release_that_was_lost_on_its_way_is_handed_out_again(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    release_lost_on_its_way(stack, intake)
    intake.follow_enclave()
    merge = intake.take_merge()
    assert merge is not None and merge.version == intake.version == 1
    np.testing.assert_allclose(merge.params, initial() + 1.0)
    for number in range(K):
        node = client(stack, f"node-{number}")
        assert node.settle(RUN, "") is None
        uploaded = node.upload(trained(RUN, 1.0, version=1, base=merge.params))
        assert offer(intake, str(number), uploaded, version=1).accepted
    intake.close()
    found = audit(folder)
    assert (found.flaw, found.version) == (None, 2)


def test_a_server_that_died_as_well_gets_the_lost_release(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    release_lost_on_its_way(stack, intake)
    abandon(intake)
    again = server(stack, folder)
    assert again.version == 1
    np.testing.assert_allclose(again.params, initial() + 1.0)
    again.close()
    assert audit(folder).flaw is None
