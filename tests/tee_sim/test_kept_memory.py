"""What is kept of the newest release, and what is refused where somebody else keeps it."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fl_protocol.codes import Code, RunRejected
from fl_protocol.ports import SystemRng
from fl_protocol.receipts import record_digest
from fl_protocol.signatures import Signed
from tee_sim.enclave.memory import ReleaseMemory, RunMemory
from tests.support.enclave import MemoryVault, state_in

RECORD, MODEL = Signed(b"{}", bytes(64)), memoryview(bytes(range(40)))
MEMORY = RunMemory(
    2, 0, {1: "1" * 64, 2: "2" * 64}, ((0, "a", "x"), (1, "b", "y")), record_digest(RECORD)
)


def test_memory_reads_back_what_was_kept() -> None:
    vault = MemoryVault()
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    assert memory.recall("run") is None
    memory.keep("run", MEMORY, RECORD, MODEL)
    assert ReleaseMemory(vault, bytes(32), SystemRng()).recall("run") == MEMORY
    assert memory.recall("another") is None
    assert all(b"run" not in sealed[-1] for sealed in vault.sealed.values())


def test_names_of_runs_that_never_were_leave_nothing_behind() -> None:
    memory = ReleaseMemory(MemoryVault(), bytes(32), SystemRng())
    tracemalloc.start()
    try:
        for index in range(20):
            assert memory.release(f"{index}" + "x" * (1 << 20), 1) is None
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 1 << 20


def test_what_no_successor_could_read_back_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = MemoryVault()
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    memory.recall("run")
    memory.keep("run", MEMORY, RECORD, MODEL)
    kept = {name: list(sealed) for name, sealed in vault.sealed.items()}
    monkeypatch.setattr("tee_sim.enclave.memory.MAX_STATE_BYTES", 4096)
    many = replace(MEMORY, version=3, contributions=tuple((2, "c", f"{n:032x}") for n in range(99)))
    with pytest.raises(RunRejected, match=r"RUN_MEMORY.*max_staleness"):
        memory.keep("run", many, RECORD, MODEL)
    assert vault.sealed == kept
    assert ReleaseMemory(vault, bytes(32), SystemRng()).recall("run") == MEMORY


def test_the_newest_release_can_be_handed_out_again() -> None:
    vault = MemoryVault()
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    memory.recall("run")
    memory.keep("run", MEMORY, RECORD, MODEL)
    successor = ReleaseMemory(vault, bytes(32), SystemRng())
    assert successor.release("run", 2) == (RECORD, bytes(MODEL))
    assert all(bytes(MODEL) not in sealed[-1] for sealed in vault.sealed.values())
    assert successor.release("run", 1) is successor.release("run", 3) is None
    assert successor.release("another", 2) is None


@pytest.mark.parametrize("newer", [3, 4])
def test_a_release_stored_without_its_memory_is_not_handed_out(newer: int) -> None:
    """The enclave died between the two: nobody has been given the newer one, or one that skips."""
    vault = MemoryVault()
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    memory.recall("run")
    memory.keep("run", MEMORY, RECORD, MODEL)
    kept = {name: list(sealed) for name, sealed in vault.sealed.items()}
    memory.keep("run", RunMemory(newer, 0, {newer: "3" * 64}, (), "f" * 64), RECORD, MODEL)
    mine = next(iter(kept.keys() - {n for n in kept if len(vault.sealed[n]) == len(kept[n])}))
    vault.sealed[mine] = kept[mine]
    assert ReleaseMemory(vault, bytes(32), SystemRng()).release("run", 2) == (RECORD, bytes(MODEL))


class FullDisk(MemoryVault):
    """A platform whose disk is full once when it comes to counting what it has stored."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.stores_until_full = 0

    def load(self, name: str) -> tuple[int, bytes]:
        return self.counted[name], super().load(name)[1]

    def store(self, name: str, sealed: bytes | bytearray) -> None:
        super().store(name, sealed)
        self.stores_until_full -= 1
        if not self.stores_until_full:
            raise RunRejected(Code.RUN_MEMORY)
        self.counted[name] += 1


def with_a_release_uncounted() -> tuple[FullDisk, ReleaseMemory]:
    """Version 2 is remembered; version 3 was stored, and is not counted."""
    vault = FullDisk()
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    memory.recall("run")
    memory.keep("run", MEMORY, RECORD, MODEL)
    vault.stores_until_full = 2
    with pytest.raises(RunRejected):
        memory.keep("run", replace(MEMORY, version=3, digests={3: "3" * 64}), RECORD, MODEL)
    return vault, memory


def test_what_was_stored_and_not_counted_cannot_take_the_place_of_what_comes_next() -> None:
    vault, memory = with_a_release_uncounted()
    turned_back = {name: list(sealed) for name, sealed in vault.sealed.items()}
    # The enclave is still there, and hands out the next but one.
    next_but_one = replace(MEMORY, version=4, digests={4: "4" * 64})
    memory.keep("run", next_but_one, RECORD, MODEL)

    successor = ReleaseMemory(vault, bytes(32), SystemRng())
    assert successor.recall("run") == next_but_one
    vault.sealed = turned_back
    with pytest.raises(RunRejected, match="RUN_MEMORY"):
        ReleaseMemory(vault, bytes(32), SystemRng()).recall("run")


def test_a_loss_of_power_after_that_leaves_a_release_to_go_on_at() -> None:
    vault, memory = with_a_release_uncounted()
    # Power is lost between the two stores of the next.
    vault.stores_until_full = 2
    with pytest.raises(RunRejected):
        memory.keep("run", replace(MEMORY, version=4, digests={4: "4" * 64}), RECORD, MODEL)

    successor = ReleaseMemory(vault, bytes(32), SystemRng())
    assert successor.recall("run").version == 3
    assert successor.release("run", 3) == (RECORD, bytes(MODEL))


def test_an_altered_release_is_refused() -> None:
    vault = MemoryVault()
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    memory.recall("run")
    memory.keep("run", MEMORY, RECORD, MODEL)
    for sealed in vault.sealed.values():
        if len(sealed[-1]) > len(MODEL) and len(sealed) == 2:
            sealed[-1] = sealed[-1][:-1] + bytes([sealed[-1][-1] ^ 1])
    with pytest.raises(RunRejected, match="RUN_MEMORY"):
        ReleaseMemory(vault, bytes(32), SystemRng()).release("run", 2)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "older", "another run's", "key"])
def test_damaged_or_older_memory_is_refused(damage: str) -> None:
    vault = MemoryVault()
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    for run_id in ("run", "other"):
        memory.recall(run_id)
        memory.keep(run_id, MEMORY, RECORD, MODEL)
    memory.keep("run", MEMORY, RECORD, MODEL)
    # Of each run the release comes before what is remembered of it.
    _, mine, _, other, _ = vault.sealed
    stored = vault.sealed[mine]
    newest = stored[-1]
    stored[-1] = {
        "flipped": bytes([newest[0] ^ 1]) + newest[1:],
        "cut": newest[:-1],
        "missing": b"",
        "older": stored[-2],
        "another run's": vault.sealed[other][-1],
        "key": newest,
    }[damage]
    key = bytes([damage == "key"]) * 32

    with pytest.raises(RunRejected) as refused:
        ReleaseMemory(vault, key, SystemRng()).recall("run")
    assert refused.value.code == Code.RUN_MEMORY


def test_a_platform_that_ended_before_it_counted_cannot_turn_a_release_back(tmp_path: Path) -> None:
    vault, key, run_id = state_in(tmp_path), bytes(32), "run"
    memory = ReleaseMemory(vault, key, SystemRng())
    memory.recall(run_id)
    memory.keep(run_id, MEMORY, RECORD, MODEL)
    counters = {path: path.read_bytes() for path in tmp_path.glob("*.counter")}
    second = RunMemory(3, 0, {3: "3" * 64}, (), "f" * 64)
    memory.keep(run_id, second, RECORD, MODEL)
    # What is remembered was stored, and the platform ended before it counted that.
    for path, content in counters.items():
        path.write_bytes(content)
    uncounted = {path: path.read_bytes() for path in tmp_path.glob("*.sealed")}

    memory = ReleaseMemory(vault, key, SystemRng())
    assert memory.recall(run_id) == second
    memory.keep(run_id, RunMemory(4, 0, {4: "4" * 64}, (), "e" * 64), RECORD, MODEL)
    for path, content in uncounted.items():
        path.write_bytes(content)

    with pytest.raises(RunRejected, match="RUN_MEMORY"):
        ReleaseMemory(vault, key, SystemRng()).recall(run_id)


def test_a_file_counter_turned_back_with_its_state_is_not_noticed(tmp_path: Path) -> None:
    """What `FileCounter` says of itself: it does not protect against its folder's writer."""
    vault, run_id = state_in(tmp_path), "run"
    memory = ReleaseMemory(vault, bytes(32), SystemRng())
    memory.recall(run_id)
    memory.keep(run_id, MEMORY, RECORD, MODEL)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    memory.keep(run_id, RunMemory(3, 0, {3: "3" * 64}, (), "f" * 64), RECORD, MODEL)
    for path, content in before.items():
        path.write_bytes(content)

    assert ReleaseMemory(vault, bytes(32), SystemRng()).recall(run_id) == MEMORY
