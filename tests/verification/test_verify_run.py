"""A run's directory, written by a real server from a real enclave, and everything done to it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from asynclave.verification.audit import Audit, audit
from fl_protocol import canonical
from fl_protocol.codes import ConfigInvalid, UpdateRejected
from fl_protocol.receipts import GENESIS, Receipt, read_record, record_digest, sign
from fl_protocol.signatures import Signed
from fl_server.intake.records import decode_record, encode_record
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.update import digest_of
from tee_sim.evidence import Evidence
from tests.support.processes import kill
from tests.support.sealed import LAYOUT, RECIPE, K, client, initial, offer, trained

RUN = "audited"
# Opening, refusal, two receipts, release; then two receipts and a release after a restart.
REFUSAL, FIRST_RECEIPT, FIRST_RELEASE, SECOND_OPENING, LAST = 1, 2, 4, 5, 8


@pytest.fixture(scope="module")
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


def test_records_name_their_run_and_the_newest_model(run: Path) -> None:
    found = audit(run, run_id=RUN)
    newest = hashlib.sha256((run / "released-model.bin").read_bytes()).hexdigest()
    assert found.flaw is None
    assert (found.run_id, found.model_digest) == (RUN, newest)


def test_records_of_another_run_are_named(run: Path) -> None:
    found = audit(run.rename(run.with_name("wanted")), run_id="wanted").flaw
    assert found is not None and found.kind == "opening"
    assert RUN in found.detail and "wanted" in found.detail


def flaw(run: Path) -> tuple[int, str] | None:
    found = audit(run).flaw
    return None if found is None else (found.index, found.kind)


def edit(run: Path, change: Callable[[list[bytes]], object]) -> None:
    path = run / "receipts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


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


def test_every_edited_byte_is_named(run: Path) -> None:
    path = run / "receipts.jsonl"
    content = path.read_bytes()
    ends = [at for at, byte in enumerate(content) if byte == ord("\n")]
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        line = next(index for index, end in enumerate(ends) if at <= end)
        assert flaw(run) == (line, "edited"), at


@pytest.mark.parametrize("index", range(9))
def test_a_removed_line_is_named(run: Path, index: int) -> None:
    edit(run, lambda lines: lines.pop(index))
    assert flaw(run) == (index, "removed")


@pytest.mark.parametrize("index", range(8))
def test_two_swapped_lines_are_named(run: Path, index: int) -> None:
    def swap(lines: list[bytes]) -> None:
        lines[index], lines[index + 1] = lines[index + 1], lines[index]

    edit(run, swap)
    assert flaw(run) == (index, "reordered")


@pytest.mark.parametrize("index", range(9))
def test_a_line_that_stands_twice_is_named(run: Path, index: int) -> None:
    edit(run, lambda lines: lines.insert(index + 1, lines[index]))
    assert flaw(run) == (index + 1, "duplicated")


def test_an_epoch_removed_as_a_whole_is_named(run: Path) -> None:
    edit(run, lambda lines: lines.__delitem__(slice(SECOND_OPENING, None)))
    assert flaw(run) == (SECOND_OPENING, "removed")
    edit(run, lambda lines: lines.clear())
    assert flaw(run) == (0, "removed")


def test_evidence_without_a_record_is_noted(run: Path) -> None:
    edit(run, lambda lines: lines.__delitem__(slice(SECOND_OPENING, None)))
    (run / "head-2.json").unlink()
    (run / "released-model.bin").write_bytes((initial() + 1).tobytes())
    found = audit(run)
    assert found.flaw is None and found.version == 1
    assert found.notes[0].startswith("evidence-2.json: there is no record of that enclave")
    assert found.notes[1:] == ["released-model.bin is version 1"]


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


def test_a_cut_last_line_is_named(run: Path) -> None:
    edit(run, lambda lines: lines.append(lines.pop()[:-9]))
    assert flaw(run) == (LAST, "edited")


def test_a_record_signed_by_a_foreign_key_is_named(run: Path) -> None:
    def forge(lines: list[bytes]) -> None:
        record = read_record(decode_record(lines[LAST].strip()))
        lines[LAST] = encode_record(sign(record, Ed25519PrivateKey.generate())) + b"\n"

    edit(run, forge)
    assert flaw(run) == (LAST, "edited"), "the head vouches for another record"


def test_a_whole_epoch_signed_by_a_foreign_key_is_named(run: Path) -> None:
    key = Ed25519PrivateKey.generate()

    def forge(lines: list[bytes]) -> None:
        prev = GENESIS
        for index in range(SECOND_OPENING, LAST + 1):
            record = read_record(decode_record(lines[index].strip()))
            signed = sign(replace(record, prev=prev), key)
            prev, lines[index] = record_digest(signed), encode_record(signed) + b"\n"

    edit(run, forge)
    assert flaw(run) == (SECOND_OPENING, "signature")


def test_a_missing_or_changed_head_is_named(run: Path) -> None:
    first, second = run / "head-1.json", run / "head-2.json"
    content = second.read_bytes()
    second.write_bytes(first.read_bytes())
    assert flaw(run) == (LAST + 1, "removed")
    second.write_bytes(content)
    first.unlink()
    assert flaw(run) == (SECOND_OPENING, "removed")


def test_missing_evidence_is_named_where_its_epoch_begins(run: Path) -> None:
    (run / "evidence-2.json").unlink()
    assert flaw(run) == (SECOND_OPENING, "signature")


def test_changed_evidence_is_named(run: Path) -> None:
    path = run / "evidence-2.json"
    members = json.loads(path.read_bytes())
    payload = members["payload"]
    members["payload"] = payload[:200] + ("A" if payload[200] != "A" else "B") + payload[201:]
    path.write_text(json.dumps(members, separators=(",", ":"), sort_keys=True))
    assert flaw(run) == (SECOND_OPENING, "evidence")


def test_evidence_of_a_time_beyond_the_calendar_is_named(run: Path) -> None:
    path = run / "evidence-2.json"
    evidence = Evidence.decode(path.read_bytes())
    claims = json.loads(evidence.payload) | {"iat": 10**12}
    path.write_bytes(replace(evidence, payload=canonical.encode(claims)).encode())
    assert flaw(run) == (SECOND_OPENING, "evidence")


def test_evidence_of_another_epoch_is_named(run: Path) -> None:
    shutil.copy(run / "evidence-1.json", run / "evidence-2.json")
    assert flaw(run) == (SECOND_OPENING, "evidence")


def test_evidence_is_refused_by_a_stricter_policy(run: Path, tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    trusted = (run / "trust.toml").read_text()
    policy.write_text(trusted.replace('measurements = ["', 'measurements = ["00'))
    found = audit(run, policy).flaw
    assert found is not None and (found.index, found.kind) == (0, "evidence")
    assert "EVIDENCE_MEASUREMENT" in found.detail


@pytest.mark.parametrize("change", [b"", b"\0" * 64])
def test_a_released_model_that_is_none_is_named(run: Path, change: bytes) -> None:
    (run / "released-model.bin").write_bytes(change)
    assert flaw(run) == (LAST + 1, "model")
    (run / "released-model.bin").unlink()
    assert flaw(run) == (LAST + 1, "model")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


def a_hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(200 << 30)


FOUND = {
    "evidence-2.json": (SECOND_OPENING, "evidence"),
    "evidence-9.json": (LAST + 1, "evidence"),
    "head-2.json": (LAST + 1, "removed"),
    "released-model.bin": (LAST + 1, "model"),
    "model.safetensors": (LAST + 1, "model"),
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("make", [a_folder, a_pipe, a_socket, a_hole])
def test_what_is_no_file_or_too_large_is_named(
    run: Path, name: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names of sockets are short.
    monkeypatch.chdir(run)
    (run / name).unlink(missing_ok=True)
    make(Path(name))
    assert flaw(run) == FOUND[name]


@pytest.mark.parametrize("name", ["receipts.jsonl", "layout.json", "trust.toml"])
@pytest.mark.parametrize("make", [a_folder, a_pipe, a_socket])
def test_without_a_file_of_the_records_there_is_nothing_to_check(
    run: Path, name: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    (run / name).unlink()
    make(Path(name))
    with pytest.raises(ConfigInvalid, match=f"{name}.* is (a folder|no regular file)") as refused:
        audit(run)
    assert "only confidential runs" not in refused.value.sentence


def test_records_and_policies_without_an_end_are_no_crash(run: Path) -> None:
    for name in ("layout.json", "trust.toml"):
        content = (run / name).read_bytes()
        a_hole(run / name)
        with pytest.raises(ConfigInvalid, match=f"{name}.* has more than"):
            audit(run)
        (run / name).write_bytes(content)
    with (run / "receipts.jsonl").open("ab") as chain:
        chain.truncate(200 << 30)
    assert flaw(run) == (LAST + 1, "edited")


def test_a_revocation_list_that_is_a_pipe_is_not_waited_for(run: Path) -> None:
    os.mkfifo(run / "list.pem")
    trust = (run / "trust.toml").read_text().replace("[revocation_lists]", "")
    (run / "trust.toml").write_text(f'{trust}[revocation_lists]\nintel-tdx = ["list.pem"]\n')
    with pytest.raises(ConfigInvalid, match=r"list\.pem.* is no regular file"):
        audit(run)


def test_a_published_model_of_a_type_without_numbers_here_is_named(run: Path) -> None:
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (run / "model.safetensors").write_bytes(content)
    assert flaw(run) == (LAST + 1, "model")


def test_a_model_that_later_releases_replaced_is_named(run: Path) -> None:
    (run / "released-model.bin").write_bytes(initial().tobytes())
    assert flaw(run) == (LAST + 1, "model")


def test_another_layout_than_the_releases_name_is_named(run: Path) -> None:
    (run / "layout.json").write_bytes((run / "layout.json").read_bytes() + b" ")
    assert flaw(run) == (0, "opening")


def published(run: Path, params: np.ndarray[Any, Any], digest: str) -> None:
    arrays = LAYOUT.unflatten(params, {"steps": np.array(3, np.int64)})
    save_file(
        {k: v.copy() for k, v in arrays.items()}, run / "model.safetensors", {"digest": digest}
    )


def test_the_published_model_must_be_a_released_one(run: Path) -> None:
    newest = np.frombuffer((run / "released-model.bin").read_bytes(), np.float32)
    published(run, newest, digest_of(newest))
    assert audit(run).notes[-1] == "model.safetensors is version 2"
    published(run, newest + 1, digest_of(newest))
    assert flaw(run) == (LAST + 1, "model")
    published(run, newest, "0" * 64)
    assert flaw(run) == (LAST + 1, "model")
    (run / "model.safetensors").write_bytes(b"junk")
    assert flaw(run) == (LAST + 1, "model")


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


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_line_is_a_record_in_its_one_spelling_or_none(line: bytes) -> None:
    try:
        signed = decode_record(line)
    except ValueError:
        return
    assert encode_record(signed) == line


@given(st.binary(max_size=300), st.binary(max_size=64))
def test_a_record_of_any_ascii_payload_reads_back(payload: bytes, signature: bytes) -> None:
    record = Signed(bytes(byte & 0x7F for byte in payload), signature)
    assert decode_record(encode_record(record)) == record
