"""A confidential run as its folder shows it, for a server that takes it up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fl_protocol.chain import Link
from fl_protocol.codes import Code, EvidenceRejected, ReceiptRejected, StorageFailed
from fl_protocol.ports import Clock, Disk, LocalDisk
from fl_protocol.receipts import ACCEPTED, Chained, Head, Opening, Receipt, Release, read_head
from fl_server.durable.checkpoint import decode_state
from fl_server.intake.records import (
    CHAIN,
    LAYOUT,
    MODEL,
    SERVER,
    TASK,
    TRUST,
    decode_record,
    evidence_name,
    head_epochs,
    head_name,
    of_a_run,
    whole_lines,
)
from strategies.layout import Layout
from strategies.update import FLOAT_BYTES, Vector, frozen
from tee_sim.appraisal import Attested, TrustPolicy
from tee_sim.evidence import Claims, Evidence

_NO_STATE = (AttributeError, KeyError, RecursionError, StorageFailed, TypeError, ValueError)


@dataclass(frozen=True)
class Continued:
    """What a run's folder holds.

    Attributes
    ----------
    version : int
        Version of the newest model in it.
    params : Vector
        That model, shape (P,).
    counted : frozenset of str
        Updates that the enclaves accepted.
    epoch : int
        Of the newest record; -1 if there is none.
    links : tuple of Link
        The records of that epoch.
    keys : mapping of int to bytes
        Raw receipt key by epoch, of that enclave, if its evidence is there and good.
    server : Mapping
        What `RunRecords.server` was given last; empty if that belongs to another version.
    """

    version: int
    params: Vector
    counted: frozenset[str]
    epoch: int
    links: tuple[Link, ...]
    keys: Mapping[int, bytes]
    server: Mapping[str, Any]

    @property
    def next_seq(self) -> int:
        """Number of the first record of that epoch that is not there."""
        last = self.links[-1].record if self.links else None
        return 0 if last is None else last.seq + 1


def read_folder(
    folder: Path, run_id: str, layout: Layout, trust: TrustPolicy, disk: Disk | None = None
) -> Continued | None:
    """Read a run's folder; None if no run was begun in it.

    Whoever can write the folder can make a server lose its way, no more: the enclave opens the run
    at no other model than the newest it has handed out, and `asynclave verify-run` finds the rest.

    Parameters
    ----------
    folder : Path
        The run's.
    run_id, layout : str, Layout
        What it must hold.
    trust : TrustPolicy
        What evidence is appraised by.
    disk : Disk, optional
        The local disk by default.

    Raises
    ------
    StorageFailed
        ``STATE_MISMATCH``: it holds another run. ``LEDGER_DAMAGED``: it cannot be read, or holds
        a part of a run.
    """
    disk = disk or LocalDisk()
    if not _is_begun(disk, folder):
        return None
    lines = whole_lines(_read(disk, folder / CHAIN))
    links = [Link.of(decode_record(line)) for line in lines]
    _require_whole(disk, folder, links)
    _require_same(disk, folder, run_id, layout, links)
    model = _read(disk, folder / MODEL)
    if len(model) != FLOAT_BYTES * layout.num_params:
        raise _damaged(folder / MODEL)
    params = np.frombuffer(model, "<f4").astype(np.float32)
    own = [link.record for link in links if link.record and link.record.run_id == run_id]
    version = _version(hashlib.sha256(model).hexdigest(), own)
    if version is None:
        raise _damaged(folder / MODEL)
    records = [link.record for link in links]
    epoch = max((record.epoch for record in records if record), default=-1)
    return Continued(
        version,
        frozen(params),
        frozenset(r.update_id for r in own if isinstance(r, Receipt) and r.outcome == ACCEPTED),
        epoch,
        tuple(link for link in links if link.record and link.record.epoch == epoch),
        _keys(disk, folder, trust, epoch),
        _server(disk, folder, version, layout.num_params),
    )


def require_task(folder: Path, run_id: str, digest: str, disk: Disk | None = None) -> None:
    """Insist that updates that wait for the next version were trained for a task.

    Parameters
    ----------
    folder : Path
        The run's, with every record that the enclave has signed so far.
    run_id : str
        Whose updates.
    digest : str
        The task's, see `fl_protocol.task.task_digest`.
    disk : Disk, optional
        The local disk by default.

    Raises
    ------
    StorageFailed
        ``STATE_MISMATCH``: they were trained for another. ``LEDGER_DAMAGED``: it cannot be read.
    """
    disk = disk or LocalDisk()
    if not disk.exists(folder / TASK) or _read(disk, folder / TASK) == digest.encode():
        return
    if waiting := _num_waiting(_read(disk, folder / CHAIN), run_id):
        raise StorageFailed(
            Code.STATE_MISMATCH,
            f"{waiting} updates of the run in {folder} wait for its next version, and were trained "
            "under another configuration. Give the one that the run was begun with: train_config, "
            "what configure_train adds to it, and the app's --run-config.",
        )


def appraise_kept(evidence: bytes, trust: TrustPolicy, epoch: int) -> Attested:
    """Appraise evidence of an epoch as of the time it was made.

    Whether it answered a challenge in time, only who sent the challenge could tell.

    Raises
    ------
    EvidenceRejected
    """
    claims = Claims.decode(Evidence.decode(evidence).payload)
    clock = _Stopped(float(claims.iat))
    kept = trust.for_kept_evidence()
    attested = kept.appraise(evidence, bytes.fromhex(claims.nonce), 0, clock)
    if attested.epoch != epoch:
        raise EvidenceRejected(Code.EVIDENCE_EPOCH)
    return attested


@dataclass(frozen=True)
class _Stopped(Clock):
    """A clock that stands at the time of the evidence."""

    time: float

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        raise AssertionError("an appraisal does not wait")


def _is_begun(disk: Disk, folder: Path) -> bool:
    """Whether a run was begun in a folder as a whole; if only a part of it is there, it raises."""
    found = of_a_run(disk.list(folder))
    if CHAIN in found and LAYOUT in found:
        return True
    # The layout is written last, so a server that ended before had no record to write down.
    if found <= {CHAIN, MODEL, TRUST} and CHAIN in found and not disk.size(folder / CHAIN):
        return False
    if found == {TRUST}:
        raise StorageFailed(
            Code.STATE_MISMATCH,
            f"{folder / TRUST} is of no run, and a run keeps its own there; move it away.",
        )
    if found:
        raise _damaged(folder / (LAYOUT if CHAIN in found else CHAIN), "missing")
    return False


def _num_waiting(chain: bytes, run_id: str) -> int:
    """Count the updates that were accepted since the newest release.

    What an enclave lost is among them: its nodes deliver it again.
    """
    waiting = set()
    for line in reversed(whole_lines(chain)):
        record = Link.of(decode_record(line)).record
        if record is None or record.run_id != run_id:
            continue
        if isinstance(record, Release):
            break
        if isinstance(record, Receipt) and record.outcome == ACCEPTED:
            waiting.add(record.update_id)
    return len(waiting)


def _keys(disk: Disk, folder: Path, trust: TrustPolicy, epoch: int) -> dict[int, bytes]:
    path = folder / evidence_name(epoch)
    if not disk.exists(path):
        return {}
    try:
        return {epoch: appraise_kept(_read(disk, path), trust, epoch).receipt_key}
    except EvidenceRejected:
        return {}


def _version(digest: str, records: list[Chained]) -> int | None:
    if not records:
        # The server ended before it had the record of the opening.
        return 0
    for record in reversed(records):
        if isinstance(record, (Opening, Release)) and record.model_digest == digest:
            return record.version
    return None


def _require_same(disk: Disk, folder: Path, run_id: str, layout: Layout, links: list[Link]) -> None:
    if _read(disk, folder / LAYOUT) != layout.to_json().encode():
        raise StorageFailed(Code.STATE_MISMATCH, f"The run in {folder} has another layout.")
    # Whoever opened another run in the same enclave has records of its own in the chain.
    opened = [link.record.run_id for link in links if isinstance(link.record, Opening)]
    if opened and opened[0] != run_id:
        raise StorageFailed(Code.STATE_MISMATCH, f"{folder} holds the run {opened[0]}.")


def _require_whole(disk: Disk, folder: Path, links: list[Link]) -> None:
    """Insist on the records that the heads count; a head was written after they had been synced."""
    lengths: dict[int, int] = {}
    for link in links:
        if link.record is None:
            raise _damaged(folder / CHAIN)
        lengths[link.record.epoch] = link.record.seq + 1
    for epoch in head_epochs(disk.list(folder)):
        head = _head(disk, folder / head_name(epoch))
        if head.length > lengths.get(head.epoch, 0):
            raise _damaged(folder / CHAIN)


def _head(disk: Disk, path: Path) -> Head:
    try:
        return read_head(decode_record(_read(disk, path)))
    except (ValueError, ReceiptRejected) as error:
        raise _damaged(path) from error


def _server(disk: Disk, folder: Path, version: int, num_params: int) -> Mapping[str, Any]:
    path = folder / SERVER
    if not disk.exists(path):
        return {}
    try:
        state = decode_state(_read(disk, path))
        meta = json.loads(state["meta"])
        _require_state(meta, state.get("mean"), num_params)
    except _NO_STATE as error:
        raise _damaged(path) from error
    return {**state, **meta} if meta["version"] == version else {}


def _require_state(meta: Any, mean: Any, num_params: int) -> None:
    """Insist on what `RunRecords.server` is given; raises one of `_NO_STATE`."""
    numbers, owners = (meta["version"], meta["merges"]), meta["nodes"].values()
    if any(type(n) is not int or n < 0 for n in numbers) or any(type(o) is not str for o in owners):
        raise ValueError("a member of another type")
    if bool(meta["merges"]) != (mean is not None):
        raise ValueError("a mean over nothing, or none over versions")
    if mean is not None and (mean.dtype, mean.shape) != (np.float32, (num_params,)):
        raise ValueError("a mean of another layout")


def _read(disk: Disk, path: Path) -> bytes:
    try:
        return disk.read(path)
    except FileNotFoundError as error:
        raise _damaged(path, "missing") from error
    except OSError as error:
        raise _damaged(path) from error


def _damaged(path: Path, what: str = "damaged") -> StorageFailed:
    return StorageFailed(Code.LEDGER_DAMAGED, f"{path} is {what}; the run cannot be continued.")
