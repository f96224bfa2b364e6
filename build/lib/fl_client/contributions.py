"""What this node has contributed to, so that no server can have the same training result twice.

Two releases that hold the same contribution beside different others can be solved for it. The
enclave counts an update once and keeps what it has handed out in sealed state; a host that turns
that state back decides what its successor remembers. So the node remembers for itself, across
restarts, and contributes to each model of a run once in each enclave: again to its last model only,
when the enclave was replaced, whose successor knows whether the contribution was handed out.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, ConfigInvalid, RunRejected
from fl_protocol.ports import Disk, LocalDisk
from fl_protocol.storage import write_private

_MAX_RUNS = 10_000
_MAX_MODELS = 512
_MAX_BYTES = 64 * 1024
_SUFFIX = ".json"


@dataclass(frozen=True)
class _Memory:
    """Of one run: the last version contributed to and the enclave epoch it was sealed to.

    ``seen`` is the newest version that this enclave is known to have merged, ``models`` what was
    contributed to, ``update`` the id of the last contribution.
    """

    base: int = -1
    epoch: int = 0
    seen: int = 0
    models: tuple[str, ...] = ()
    update: str = ""


class ContributionWitness:
    """Remembers contributions in a folder: one small file per run, mode 0600, replaced atomically.

    Safe to share between threads and processes.

    Parameters
    ----------
    folder : Path
        Created when first written.
    disk : Disk, optional
        The local disk by default.
    """

    def __init__(self, folder: Path, *, disk: Disk | None = None) -> None:
        self._folder, self._disk = folder, disk or LocalDisk()

    def check(self, run_id: str, base_version: int, model_digest: str, epoch: int = 0) -> None:
        """Say whether this node may contribute to a model of a run.

        Parameters
        ----------
        run_id : str
            The run.
        base_version : int
            Version of the model.
        model_digest : str
            Its hex SHA-256.
        epoch : int
            The attested enclave's epoch; 0 asks whether any enclave will do.

        Raises
        ------
        RunRejected
            ``RUN_REPEATED``: it contributed to this version, a newer one or this very model
            before, it saw this enclave merge a newer version, or it remembers as many runs as it
            can.
        ConfigInvalid
            The file is damaged: forgetting it silently would allow a repetition.
        """
        memory = self._read(run_id)
        replaced = epoch > memory.epoch
        if replaced and (base_version, (model_digest,)) == (memory.base, memory.models[-1:]):
            return
        # What an enclave merged and never handed out is undone when it ends.
        behind = not replaced and base_version < memory.seen
        if base_version <= memory.base or behind:
            raise RunRejected(Code.RUN_REPEATED)
        if model_digest in memory.models:
            raise RunRejected(Code.RUN_REPEATED)
        if not self._disk.exists(self._path(run_id)) and self._num_runs() >= _MAX_RUNS:
            raise RunRejected(
                Code.RUN_REPEATED,
                f"{self._folder} remembers {_MAX_RUNS} runs, which is its bound; remove those "
                "of runs that nobody can open again.",
            )

    def claim(
        self, run_id: str, base_version: int, model_digest: str, epoch: int, update_id: str
    ) -> None:
        """Check and remember a contribution; to be called before its update leaves the node.

        The last one may leave again under its id: an enclave takes an id in once.
        """
        with self._turn():
            memory = self._read(run_id)
            if epoch == memory.epoch and update_id == memory.update:
                return
            self.check(run_id, base_version, model_digest, epoch)
            models = [model for model in memory.models if model != model_digest]
            models = [*models, model_digest][-_MAX_MODELS:]
            seen = base_version if epoch > memory.epoch else max(memory.seen, base_version)
            self._write(run_id, _Memory(base_version, epoch, seen, tuple(models), update_id))

    def observe(self, run_id: str, version: int) -> None:
        """Remember a version that the enclave last contributed to has merged."""
        with self._turn():
            memory = self._read(run_id)
            if version > memory.seen:
                self._write(run_id, replace(memory, seen=version))

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(run_id.encode()).hexdigest()[:32]}{_SUFFIX}"

    def _num_runs(self) -> int:
        return sum(name.endswith(_SUFFIX) for name in self._disk.list(self._folder))

    def _read(self, run_id: str) -> _Memory:
        path = self._path(run_id)
        if not self._disk.exists(path):
            return _Memory()
        try:
            members = canonical.decode_object(self._disk.read(path), _MAX_BYTES)
            base, epoch, seen = (int(members[name]) for name in ("base", "epoch", "seen"))
            models = tuple(str(model) for model in members["models"])
            return _Memory(base, epoch, seen, models, str(members["update"]))
        except (CanonicalError, KeyError, TypeError, ValueError):
            raise ConfigInvalid(
                Code.CONFIG_INVALID, f"{path} is damaged; restore it, or use a fresh run name"
            ) from None

    def _write(self, run_id: str, memory: _Memory) -> None:
        members = {**asdict(memory), "models": list(memory.models)}
        write_private(self._disk, self._path(run_id), canonical.encode(members))

    def _turn(self) -> AbstractContextManager[bool]:
        # A server may send one node two tasks at once, and each may run in its own process.
        return self._disk.lock(self._folder / "lock")
