"""A saved run as it would continue, without touching it: for looking at it and for checking it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_protocol.codes import Code, StorageFailed
from fl_protocol.ports import Chunk, LocalDisk, LogFile, SystemRng
from fl_server.durable.checkpoint import decode_state
from fl_server.durable.engine import DurableEngine, Saved
from fl_server.durable.folder import JOURNAL, LEDGER, connect
from fl_server.durable.journal import Journal
from fl_server.durable.ledger import Ledger, damaged, map_sqlite_errors
from fl_server.intake.spill import SpillFiles
from strategies.catalog import recipe_from
from strategies.engine import Engine, Limits
from strategies.release import ReleaseRule


@dataclass(frozen=True)
class RunCopy:
    """A copy of a saved run, taken as far as its journal goes.

    Attributes
    ----------
    saved : Saved
        Its ledger has the merges that a crash came before.
    engine : DurableEngine
        At the newest version.
    """

    saved: Saved
    engine: DurableEngine


@contextmanager
def continued(folder: Path) -> Iterator[RunCopy]:
    """Do what continuing a saved run would do, in memory; the run may go on meanwhile.

    Raises
    ------
    StorageFailed
        ``STATE_MISMATCH``: the folder holds no saved run. Else what continuing it would raise.
    """
    with closing(_copy_of(folder / LEDGER)) as database:
        saved = Saved(
            folder,
            _ReadOnlyDisk(),
            Journal(folder / JOURNAL, _ReadOnlyDisk(), SystemRng()),
            Ledger(database),
        )
        about = saved.ledger.about()
        if about is None:
            raise StorageFailed(Code.STATE_MISMATCH, f"{folder} holds no saved run yet.")
        yield RunCopy(saved, DurableEngine(_engine_of(saved), saved, about))


def _copy_of(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise StorageFailed(Code.STATE_MISMATCH, f"{path.parent} holds no saved run.")
    copy = sqlite3.connect(":memory:", isolation_level=None)
    with closing(connect(path, read_only=True)) as original, map_sqlite_errors():
        original.backup(copy)
    return copy


def _engine_of(saved: Saved) -> Engine:
    """Build the engine that a checkpoint describes."""
    checkpoint = saved.ledger.checkpoint()
    if checkpoint is None:
        raise damaged("it names no checkpoint")
    try:
        state = decode_state(saved.disk.read(saved.folder / checkpoint.name))
        meta: dict[str, Any] = json.loads(state["meta"])
        rule = meta["rule"]
        return Engine(
            recipe_from(meta["recipe"], **meta["options"]),
            state["params"],
            limits=Limits(**meta["limits"]),
            release_rule=None if rule is None else ReleaseRule(**rule),
            disk=SpillFiles(),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise damaged(f"the checkpoint {checkpoint.name} cannot be read") from error


class _ReadOnlyDisk(LocalDisk):
    """Reads the local file system and drops whatever is written."""

    def write_atomic(
        self, path: Path, data: bytes, mode: int = 0o600, like: os.stat_result | None = None
    ) -> None:
        pass

    def open_log(self, path: Path) -> LogFile:
        return _Nowhere()

    def truncate(self, path: Path, size: int) -> None:
        pass

    def remove(self, path: Path) -> None:
        pass


class _Nowhere:
    def append(self, parts: Sequence[Chunk]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass
