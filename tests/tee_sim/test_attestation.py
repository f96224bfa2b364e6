"""The newest epoch that a node remembers, whichever of its processes saw it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_protocol.codes import ConfigInvalid, StorageFailed
from tee_sim.attestation import EpochWitness
from tests.support.disk import no_room


def test_a_process_that_saw_an_older_enclave_last_does_not_turn_back_the_epoch(
    tmp_path: Path,
) -> None:
    one, other = (EpochWitness(tmp_path / "epoch") for _ in range(2))
    assert one.last() == other.last() == 0
    # Both appraised evidence before either wrote down what it had seen.
    one.advance(12)
    other.advance(11)
    assert one.last() == other.last() == 12


@pytest.mark.parametrize("content", [b"", b"1x", b"-1"])
def test_a_damaged_epoch_is_named_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "epoch"
    path.write_bytes(content)
    witness = EpochWitness(path)
    for attempt in (witness.last, lambda: witness.advance(7)):
        with pytest.raises(ConfigInvalid, match="epoch is damaged"):
            attempt()
    assert path.read_bytes() == content


def test_an_epoch_that_finds_no_room_is_a_typed_error(tmp_path: Path) -> None:
    witness = EpochWitness(tmp_path / "epoch")
    witness.advance(1)
    with no_room(0), pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        witness.advance(2)
    assert witness.last() == 1
