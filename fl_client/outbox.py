"""Updates that have not been seen in a release yet, kept in the node's own folder.

An enclave that ends takes what it had buffered along. Whoever trained it still has it: an update is
written down before it leaves the node, and removed once the enclave says that it is in a release
that was handed out, or refuses it for good. What could not be delivered waits here, too, across
restarts. On disk an update is encrypted under a key derived from the node's identity key, which
lies beside it: that keeps it from whatever reads files without knowing what they are, not more.

::

    file = head (one line of JSON) || nonce (12 bytes) || AES-256-GCM(update, aad = head)
    key  = HKDF-SHA256(identity key, info = "asynclave/outbox/v1" 0x00)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl_client.updates import LocalUpdate
from fl_protocol.codes import Code, ConfigInvalid, StorageFailed
from fl_protocol.identity import Identity
from fl_protocol.ports import Disk, LocalDisk, Rng
from fl_protocol.storage import clear_interrupted, write_private

# Of one run, and runs: beyond it the updates of the run begun first are given up.
MAX_UPDATES, MAX_RUNS = 64, 8
_SUFFIX = ".update"
_INFO = b"asynclave/outbox/v1\0"
_NONCE_BYTES = 12
_RUN = re.compile("[0-9a-f]{32}")

_logger = getLogger(__name__)

Metrics = Mapping[str, Mapping[str, Any]]
"""Values of metric records by name, as a task's reply holds them."""


@dataclass(frozen=True, eq=False)
class Kept:
    """An update that was kept.

    Attributes
    ----------
    update_id : str
        The same on every delivery.
    update : LocalUpdate
        What was trained.
    metrics : Metrics
        What the reply to its task says beside it.
    """

    update_id: str
    update: LocalUpdate
    metrics: Metrics


class Outbox:
    """One file per update, mode 0600, replaced atomically.

    Parameters
    ----------
    folder : Path
        Created when first written.
    identity : Identity
        The node's keys; updates kept under others cannot be read.
    rng : Rng
        Source of nonces.
    disk : Disk, optional
        The local disk by default.
    """

    def __init__(
        self, folder: Path, identity: Identity, rng: Rng, *, disk: Disk | None = None
    ) -> None:
        self._folder, self._disk, self._rng = folder, disk or LocalDisk(), rng
        secret = identity.identity_key.private_bytes_raw()
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt=None, info=_INFO).derive(secret))

    def put(self, kept: Kept) -> None:
        """Keep an update.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: the outbox or the disk is full, or fails.
        ConfigInvalid
            The list of runs is damaged; it is named.
        """
        path = self._path(kept)
        if len(self._names(path.parent)) >= MAX_UPDATES:
            raise StorageFailed(
                Code.JOURNAL_FULL,
                f"{path.parent} holds {MAX_UPDATES} updates that could not be delivered.",
            )
        self._note_run(kept.update.run_id)
        delta = np.ascontiguousarray(kept.update.delta, "<f4")
        members = {
            "update_id": kept.update_id,
            "metrics": {name: dict(values) for name, values in kept.metrics.items()},
            "update": _described(kept.update),
        }
        head = json.dumps(members).encode() + b"\n"
        nonce = self._rng.bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, delta.tobytes(), head)
        write_private(self._disk, path, head + nonce + sealed)

    def remove(self, kept: Kept) -> None:
        """Forget an update."""
        self._disk.remove(self._path(kept))

    def of(self, run_id: str) -> list[Kept]:
        """Return what was kept of a run, the oldest base version first.

        Raises
        ------
        ConfigInvalid
            A file is damaged; it is named, and nothing is removed.
        """
        folder = self._folder / _name(run_id)
        clear_interrupted(self._disk, folder)
        found = [self._read(folder / name) for name in self._names(folder)]
        return sorted(found, key=lambda kept: kept.update.base_version)

    def turn(self, run_id: str) -> AbstractContextManager[bool]:
        """Keep other processes of this node from delivering the same run's updates meanwhile."""
        return self._disk.lock(self._folder / f"{_name(run_id)}.lock")

    def _note_run(self, run_id: str) -> None:
        index, name = self._folder / "runs.json", _name(run_id)
        with self._disk.lock(self._folder / "runs.lock"):
            runs = self._runs(index)
            if name in runs:
                return
            for old in runs[: max(0, len(runs) + 1 - MAX_RUNS)]:
                self._give_up(self._folder / old)
            write_private(self._disk, index, json.dumps([*runs, name][-MAX_RUNS:]).encode())

    def _runs(self, index: Path) -> list[str]:
        if not self._disk.exists(index):
            return []
        try:
            runs = json.loads(self._disk.read(index))
            if not all(_RUN.fullmatch(name) for name in runs):
                raise ValueError("not names of runs")
        except (ValueError, TypeError) as error:
            raise _damaged(index) from error
        return list(runs)

    def _give_up(self, folder: Path) -> None:
        for left in self._disk.list(folder):
            if left.endswith(_SUFFIX):
                _logger.warning("Gave up an update of a run long past: %s", left)
            self._disk.remove(folder / left)

    def _names(self, folder: Path) -> list[str]:
        """Return the updates' files; a write that was cut off leaves others beside them."""
        return [name for name in self._disk.list(folder) if name.endswith(_SUFFIX)]

    def _path(self, kept: Kept) -> Path:
        return self._folder / _name(kept.update.run_id) / f"{_name(kept.update_id)}{_SUFFIX}"

    def _read(self, path: Path) -> Kept:
        content = self._disk.read(path)
        head = content[: content.find(b"\n") + 1]
        nonce, sealed = content[len(head) :][:_NONCE_BYTES], content[len(head) + _NONCE_BYTES :]
        try:
            members = json.loads(head)
            plain = self._cipher.decrypt(nonce, sealed, head)
            delta = np.frombuffer(plain, "<f4").astype(np.float32)
            update = LocalUpdate(delta=delta, **members["update"])
            return Kept(members["update_id"], update, members["metrics"])
        except (ValueError, KeyError, TypeError, InvalidTag) as error:
            raise _damaged(path) from error


def _described(update: LocalUpdate) -> dict[str, Any]:
    names = (field.name for field in fields(update) if field.name != "delta")
    return {name: getattr(update, name) for name in names}


def _damaged(path: Path) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, f"{path} is damaged; restore or remove it")


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
