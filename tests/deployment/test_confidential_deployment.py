from __future__ import annotations

import json
from pathlib import Path

import pytest

from asynclave.canary import Needles, search_files, search_memory
from asynclave.deployment import Deployment
from asynclave.verification.audit import audit
from tests.deployment.conftest import CANARY_APP, QUICKSTART, descendants
from tests.deployment.flower_cli import Run

pytestmark = pytest.mark.deployment


def test_quickstart_trains_with_sealed_updates(confidential: Deployment, tmp_path: Path) -> None:
    # given three authenticated nodes of which one is slow
    settings = ["--run-config", "num-server-rounds=2 fraction-evaluate=0.0"]
    # when
    arguments = [*confidential.run_arguments(QUICKSTART), *settings]
    run = Run(confidential.environment, arguments, tmp_path / "run.log")
    status = run.wait(patience=150)
    # then
    assert status == "finished:completed", run.log
    # and what the enclave signed can be verified
    (records,) = (confidential.state.stack / "records").iterdir()
    found = audit(records)
    # Updates that were under way at the end may have made another version.
    assert found.flaw is None and found.version >= 2


def test_no_update_is_readable_outside_the_enclave(
    confidential: Deployment, tmp_path: Path
) -> None:
    # given clients whose updates are known tensors
    from canary_app.planted import CONTROL, planted

    updates = Needles.of(*map(planted, range(confidential.spec.nodes)))
    control = Needles.of(planted(CONTROL))
    # when they have trained and every server process still holds what it holds
    settings = ["--run-config", f'witness-dir="{tmp_path}"']
    arguments = [*confidential.run_arguments(CANARY_APP), *settings]
    run = Run(confidential.environment, arguments, tmp_path / "run.log")
    run.wait_for_file(tmp_path / "trained", patience=120)
    pids = confidential.status.pids
    superlink_side = descendants(pids["superlink"])
    # then no update is found, where the control is
    try:
        assert any(_holds(pid, control) for pid in superlink_side)
        assert [pid for pid in superlink_side if _holds(pid, updates)] == []
        assert not search_memory(pids["superlink"], updates)
        assert not search_memory(pids["gateway"], updates)
        assert not search_memory(pids["launcher"], updates)
    finally:
        (tmp_path / "searched").touch()
    assert run.wait(patience=60) == "finished:completed"
    assert search_files(confidential.state.root, updates) == []
    # and Flower carried receipts only
    replies = json.loads((tmp_path / "replies.json").read_text())
    assert sum(reply["receipts"] == ["accepted"] for reply in replies) >= 4
    assert [reply for reply in replies if reply.get("arrays") != []] == []


def _holds(pid: int, needles: Needles) -> bool:
    """Search a process that may end meanwhile, as the SuperLink's helpers do."""
    try:
        return search_memory(pid, needles)
    except ProcessLookupError:
        return False
