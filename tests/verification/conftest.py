"""A run's directory, written once by a real server from a real enclave, and copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_protocol.codes import UpdateRejected
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from tests.support.processes import kill
from tests.support.sealed import LAYOUT, RECIPE, K, client, initial, offer, trained
from tests.verification.support import RUN


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two versions, one of each enclave epoch, with an update that was refused."""
    folder = tmp_path_factory.mktemp("audited")
    with LocalStack(folder / "stack", StackSettings(recipe=RECIPE, k=K)) as stack:
        nodes = [client(stack, f"node-{number}") for number in range(K)]
        config = stack.server_config(records=folder / "records")
        intake = SealedIntake(config, RECIPE, watch_interval=3600)
        intake.open(RUN, LAYOUT, initial())
        with pytest.raises(UpdateRejected, match="NONFINITE"):
            client(stack, "broken").upload(trained(RUN, float("nan")))
        for number, node in enumerate(nodes):
            assert offer(intake, str(number), node.upload(trained(RUN, 1.0))).accepted
        merge = intake.take_merge()
        assert merge is not None
        kill(stack.enclave_pid)
        intake.follow_enclave()
        for number, node in enumerate(nodes):
            uploaded = node.upload(trained(RUN, 1.0, version=1, base=merge.params))
            assert offer(intake, str(number), uploaded, version=1).accepted
        intake.close()
    yield folder / "records" / RUN


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / RUN))
