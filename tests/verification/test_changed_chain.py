"""Everything that can be done to the chain of receipts and to its heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from asynclave.verification.audit import audit
from fl_protocol.receipts import GENESIS, read_record, record_digest, sign
from fl_protocol.signatures import Signed
from fl_server.intake.records import decode_record, encode_record
from tests.support.sealed import initial
from tests.verification.support import LAST, SECOND_OPENING, edit, flaw


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
