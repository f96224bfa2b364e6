"""What a successor knows of the releases its predecessors handed out."""

from __future__ import annotations

import socket
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, ConfigInvalid, RunRejected
from fl_protocol.ports import LocalDisk, SystemRng
from fl_protocol.receipts import GENESIS, Opening, record_digest, verify_opening
from fl_protocol.signatures import Signed
from tee_sim.channel import Channel, ChannelClosed
from tee_sim.counter import FileCounter
from tee_sim.enclave.memory import PlatformVault, ReleaseMemory, RunMemory
from tee_sim.sealed_state import SealedState
from tests.support.enclave import (
    EPOCH,
    INITIAL,
    Lab,
    MemoryVault,
    SealedImage,
    fresh_run,
    signed_of,
)

RECORD, MODEL = Signed(b"{}", bytes(64)), memoryview(bytes(range(40)))
MEMORY = RunMemory(
    2, 0, {1: "1" * 64, 2: "2" * 64}, ((0, "a", "x"), (1, "b", "y")), record_digest(RECORD)
)
_epochs = count(EPOCH)


class Epochs:
    """One enclave after the other, of the same policy, members and run."""

    def __init__(self, image: SealedImage) -> None:
        self._image, self._issuer, self._run = image, Ed25519PrivateKey.generate(), fresh_run()
        self._labs: list[Lab] = []

    def next(self) -> Lab:
        """End the present enclave and start its successor."""
        self.close()
        lab = Lab(self._image, self._issuer, epoch=next(_epochs), run_id=self._run)
        self._labs.append(lab)
        return lab

    def close(self) -> None:
        for lab in self._labs:
            lab.close()
        self._labs.clear()


@pytest.fixture
def epochs(sealed_image: SealedImage) -> Iterator[Epochs]:
    epochs = Epochs(sealed_image)
    yield epochs
    epochs.close()


def test_successor_goes_on_from_the_newest_release_handed_out(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    first.merge_with(1.0, 3.0)
    record, params = first.release(1)

    second = epochs.next()
    assert second.open_run(version=1, params=params.tobytes())["ok"]
    second.merge_with(5.0, 7.0, base_version=1, base_model_digest=record.model_digest)

    np.testing.assert_allclose(second.release(2)[1], INITIAL + 8, rtol=1e-6)


def test_opening_names_the_newest_release_that_was_handed_out(epochs: Epochs) -> None:
    first = epochs.next()
    assert opening(first, first.open_run()).continues == GENESIS
    first.merge_with(1.0, 3.0)
    ask = {"op": "GET_RELEASE", "run_id": first.run_id, "version": 1}
    reply, params = first.ask_all(first.signer.sign(ask))

    second = epochs.next()
    reopened = second.open_run(version=1, params=params)
    assert opening(second, reopened).continues == record_digest(signed_of(reply))


def opening(lab: Lab, reply: dict[str, Any]) -> Opening:
    return verify_opening(signed_of(reply), lab.keys.receipt)


def test_successor_counts_no_contribution_of_a_release_again(epochs: Epochs) -> None:
    # the old attack: withhold the receipt, take the release, end the enclave
    first = epochs.next()
    first.open_run()
    victim = first.member("victim")
    assert first.send(victim)["ok"]
    first.merge_with(3.0)
    params = first.release(1)[1]

    second = epochs.next()
    second.open_run(version=1, params=params.tobytes())

    assert second.send(victim)["code"] == "DUPLICATE_UPDATE"
    assert second.status()["pending"] == 0


def test_update_under_way_from_an_older_model_counts_with_the_successor(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    first.merge_with(1.0, 3.0)
    params = first.release(1)[1]

    second = epochs.next()
    second.open_run(version=1, params=params.tobytes())

    assert second.receipt(second.send(second.member("slow"))).staleness == 1


def test_what_was_merged_and_never_handed_out_may_come_again(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    member = first.member("a")
    assert first.send(member)["ok"]
    first.merge_with(3.0)
    assert first.status()["version"] == 1

    second = epochs.next()
    assert second.open_run()["ok"]
    assert second.send(member, 5.0)["ok"]
    second.merge_with(7.0)

    np.testing.assert_allclose(second.release(1)[1], INITIAL + 6, rtol=1e-6)


@pytest.mark.parametrize("again", ["older version", "newer version", "another model"])
@pytest.mark.parametrize("replaced", [True, False])
def test_run_is_not_opened_at_another_model_than_was_handed_out(
    epochs: Epochs, again: str, replaced: bool
) -> None:
    lab = epochs.next()
    lab.open_run()
    lab.merge_with(1.0, 3.0)
    params = lab.release(1)[1]
    if replaced:
        lab = epochs.next()
    asked: dict[str, dict[str, Any]] = {
        "older version": {"version": 0},
        "newer version": {"version": 2, "params": params.tobytes()},
        "another model": {"version": 1},
    }

    assert lab.open_run(**asked[again])["code"] == Code.RUN_REGRESSED

    assert lab.open_run(version=1, params=params.tobytes())["ok"]


def test_memory_follows_the_release_asked_for_not_the_newest_merged(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    first.merge_with(1.0, 3.0)
    late = first.member("late")
    assert first.send(late)["ok"]
    first.merge_with(3.0)
    assert first.status()["version"] == 2
    params = first.release(1)[1]

    second = epochs.next()
    assert second.open_run(version=1, params=params.tobytes())["ok"]
    assert second.send(late)["ok"]


def test_release_that_cannot_be_remembered_is_not_handed_out(tmp_path: Path) -> None:
    image = SealedImage()
    image.state = Broken(tmp_path, LocalDisk(), SystemRng())
    lab = Lab(image)
    try:
        assert lab.open_run()["ok"]
        lab.merge_with(1.0, 3.0)
        ask = {"op": "GET_RELEASE", "run_id": lab.run_id, "version": 1}
        assert lab.ask_all(lab.signer.sign(ask)) == (lab.ask(ask), b"")
        assert lab.ask(ask)["code"] == Code.RUN_MEMORY
        assert lab.status()["version"] == 1
    finally:
        lab.close()


class Broken(SealedState):
    """A platform whose disk is full."""

    def store(self, name: str, sealed: bytes) -> None:
        raise OSError("no space left on device")


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


def state_in(folder: Path) -> SealedState:
    return SealedState(folder, LocalDisk(), SystemRng())


def test_each_image_has_its_own_key_that_outlives_the_launcher(tmp_path: Path) -> None:
    one, other = "ab" * 48, "cd" * 48
    key = state_in(tmp_path).key_for(one)
    assert key == state_in(tmp_path).key_for(one) != state_in(tmp_path).key_for(other)
    assert (tmp_path / "root.key").stat().st_mode & 0o777 == 0o600


def test_state_survives_the_launcher_and_counts(tmp_path: Path) -> None:
    name = "0" * 64
    assert state_in(tmp_path).load(name) == (0, b"")
    state_in(tmp_path).store(name, b"one")
    state_in(tmp_path).store(name, b"two")
    assert state_in(tmp_path).load(name) == (2, b"two")


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


def test_a_damaged_counter_is_named(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("x")
    with pytest.raises(ConfigInvalid, match="n is damaged"):
        FileCounter(tmp_path / "n", LocalDisk()).value()


@pytest.mark.parametrize(
    "header",
    [{"op": "LOAD", "name": "../root.key"}, {"op": "DELETE", "name": "0" * 64}, {"op": "STORE"}],
)
def test_platform_takes_nothing_else_from_an_enclave(
    tmp_path: Path, header: dict[str, Any]
) -> None:
    here, there = socket.socketpair()
    keeper = state_in(tmp_path).serve(there)
    with here:
        Channel(here).send(header)
        with pytest.raises(ChannelClosed):
            Channel(here).receive()
        keeper.join(10)
    assert not keeper.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_enclave_asks_its_platform(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    keeper = state_in(tmp_path).serve(there)
    with here:
        vault = PlatformVault(Channel(here))
        vault.store("0" * 64, b"sealed")
        assert vault.load("0" * 64) == (1, b"sealed")
    keeper.join(10)
