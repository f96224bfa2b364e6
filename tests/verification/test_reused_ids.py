"""A client that uses an id of its own again: no fault of the enclaves, which forget ids in time.

An id is for its sender to choose, and only as long as an update of it could come again does an
enclave know that it was in a release.
"""

from __future__ import annotations

from pathlib import Path

from asynclave.verification.audit import audit
from fl_client.uploader import SealedUploader
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.update import Vector
from tests.support.processes import kill
from tests.support.sealed import (
    LAYOUT,
    RECIPE,
    K,
    client,
    initial,
    sealed_by,
    submit,
    trained,
)

RUN = "reused"


def contribute(node: SealedUploader, update_id: str, version: int, base: Vector) -> None:
    node._connection.attestor.refresh()
    update = trained(RUN, 1.0, version=version, base=base)
    submit(node, *sealed_by(node, update, update_id=update_id))


def test_an_id_used_again_once_its_enclave_has_ended_is_no_flaw_of_the_run(tmp_path: Path) -> None:
    settings = StackSettings(recipe=RECIPE, k=K, max_staleness=0)
    with LocalStack(tmp_path / "stack", settings) as stack:
        hostile, honest = client(stack, "hostile"), client(stack, "honest")
        config = stack.server_config(records=tmp_path / "records")
        intake = SealedIntake(config, RECIPE, watch_interval=3600)
        intake.open(RUN, LAYOUT, initial())
        for version in range(2):
            contribute(hostile, "the-same", version, intake.params)
            contribute(honest, f"update-{version}", version, intake.params)
            intake.catch_up()
            kill(stack.enclave_pid)
            intake.follow_enclave()
        intake.close()
    found = audit(tmp_path / "records" / RUN)
    assert (found.flaw, found.version, found.accepted) == (None, 2, 2 * K)
