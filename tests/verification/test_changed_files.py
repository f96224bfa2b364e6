"""Everything that can be done to the files beside the chain."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from asynclave.verification.audit import audit
from fl_protocol import canonical
from fl_protocol.codes import ConfigInvalid
from strategies.update import digest_of
from tee_sim.evidence import Evidence
from tests.support.sealed import LAYOUT, initial
from tests.verification.support import LAST, SECOND_OPENING, flaw


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
