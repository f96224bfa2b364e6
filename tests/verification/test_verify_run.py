"""What is found in the directory of a run that nobody has changed, and how it is told."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from asynclave.verification.audit import Audit, audit
from fl_protocol.codes import ConfigInvalid
from fl_protocol.receipts import Receipt, read_record
from fl_server.intake.records import decode_record
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from tests.support.processes import kill
from tests.support.sealed import LAYOUT, RECIPE, K, client, initial, offer, trained
from tests.verification.support import FIRST_RECEIPT, FIRST_RELEASE, REFUSAL, RUN, edit


def test_records_name_their_run_and_the_newest_model(run: Path) -> None:
    found = audit(run, run_id=RUN)
    newest = hashlib.sha256((run / "released-model.bin").read_bytes()).hexdigest()
    assert found.flaw is None
    assert (found.run_id, found.model_digest) == (RUN, newest)


def test_records_of_another_run_are_named(run: Path) -> None:
    found = audit(run.rename(run.with_name("wanted")), run_id="wanted").flaw
    assert found is not None and found.kind == "opening"
    assert RUN in found.detail and "wanted" in found.detail


def test_an_untouched_run_is_verified(run: Path) -> None:
    found = audit(run)
    assert found.flaw is None
    assert (found.num_records, found.accepted, found.refused) == (9, 4, 1)
    assert (found.releases, found.version, sorted(found.enclaves)) == (2, 2, [1, 2])
    assert found.notes == ["released-model.bin is version 2"]


def test_a_release_that_its_enclave_never_handed_out_leaves_no_trace(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "stack", StackSettings(recipe=RECIPE, k=K)) as stack:
        nodes = [client(stack, f"node-{number}") for number in range(K)]
        config = stack.server_config(records=tmp_path / "records")
        intake = SealedIntake(config, RECIPE, watch_interval=3600)
        intake.open(RUN, LAYOUT, initial())
        for number, node in enumerate(nodes):
            assert offer(intake, str(number), node.upload(trained(RUN, 1.0))).accepted
        base = initial() + 1
        # The enclave makes version 2, which nobody fetches.
        for node in nodes:
            node.upload(trained(RUN, 3.0, version=1, base=base))
        intake._opened.keeper.fetch()
        kill(stack.enclave_pid)
        intake.follow_enclave()
        for number, node in enumerate(nodes):
            uploaded = node.upload(trained(RUN, 5.0, version=1, base=base))
            assert offer(intake, str(number), uploaded, version=1).accepted
        intake.close()
    found = audit(tmp_path / "records" / RUN)
    assert (found.flaw, found.releases, found.version) == (None, 2, 2)
    assert found.accepted == 6


def test_a_gap_between_epochs_is_noted(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "stack", StackSettings(recipe=RECIPE, k=K)) as stack:
        config = stack.server_config(records=tmp_path / "records")
        intake = SealedIntake(config, RECIPE, watch_interval=3600)
        intake.open(RUN, LAYOUT, initial())
        kill(stack.enclave_pid)
        # This enclave is attested by a node and ends before the run is opened in it.
        assert client(stack, "early")._connection.attestor.current().epoch == 2
        kill(stack.enclave_pid)
        intake.follow_enclave()
        intake.close()
    found = audit(tmp_path / "records" / RUN)
    assert found.flaw is None and sorted(found.enclaves) == [1, 3]
    assert found.notes[0].startswith("between epochs 1 and 3 there were enclaves")


def test_records_before_the_opening_of_a_run_are_noted(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "stack", StackSettings(recipe=RECIPE, k=K)) as stack:
        config = stack.server_config(records=tmp_path / "records")
        for _ in range(2):
            # The second knows nothing of the first, and opens the run in the same enclave anew.
            intake = SealedIntake(config, RECIPE, watch_interval=3600)
            intake.open(RUN, LAYOUT, initial())
            intake.close()
    assert audit(tmp_path / "records" / RUN).notes == ["released-model.bin is version 0"]
    found = audit(tmp_path / "records" / f"{RUN}-2")
    assert found.flaw is None
    assert found.notes[0].startswith("epoch 1: records before number 1 are not here")


def test_a_folder_without_records_is_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigInvalid, match="only confidential runs leave records"):
            audit(folder)


def test_a_refusal_stands_in_the_chain_under_its_code(run: Path) -> None:
    lines = (run / "receipts.jsonl").read_bytes().splitlines()
    record = read_record(decode_record(lines[REFUSAL]))
    assert isinstance(record, Receipt) and record.outcome == "NONFINITE"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asynclave", "verify-run", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_tells_the_flaw_and_its_exit_code(run: Path, tmp_path: Path) -> None:
    good = command(str(run), "--json")
    assert (good.returncode, json.loads(good.stdout)["verified"]) == (0, True)
    assert command(str(tmp_path)).returncode == 2
    edit(run, lambda lines: lines.pop(FIRST_RECEIPT))
    bad = command(str(run), "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["flaw"]["kind"] == "removed"
    shown = command(str(run))
    assert shown.returncode == 1
    assert "not verified: record 2, removed: record 2 must stand here" in shown.stdout


def test_an_audit_reports_how_far_it_came(run: Path) -> None:
    edit(run, lambda lines: lines.pop(FIRST_RELEASE))
    found: Audit = audit(run)
    assert (found.num_records, found.releases, sorted(found.enclaves)) == (8, 0, [1, 2])
