"""Attest before you trust: challenge, appraise, remember, and never accept an older enclave.

Shared by clients and the server; how evidence travels is the caller's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import Clock, Disk, LocalDisk, Rng
from fl_protocol.storage import stored, write_private
from tee_sim.appraisal import Attested, TrustPolicy

NONCE_BYTES = 32

# An epoch's evidence is asked for again after this many seconds even when nothing failed.
_MAX_AGE = 600.0


class EpochWitness:
    """Remembers the highest enclave epoch this node has seen, across restarts.

    Safe to share between processes.

    Parameters
    ----------
    path : Path
        A small file in the node's identity folder.
    disk : Disk, optional
        The local disk by default.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path, self._disk = path, disk or LocalDisk()

    def last(self) -> int:
        """Return the highest epoch seen, 0 at first.

        Raises
        ------
        ConfigInvalid
            The file is damaged: forgetting an epoch silently would allow a rollback.
        """
        if not self._disk.exists(self._path):
            return 0
        text = self._disk.read(self._path)
        if not text.isdigit():
            raise ConfigInvalid(
                Code.CONFIG_INVALID, f"{self._path} is damaged; restore it, or remove the folder"
            )
        return int(text)

    def advance(self, epoch: int) -> None:
        """Remember an epoch, unless another process has seen a later one meanwhile.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: it could not be written down.
        """
        lock = self._path.with_name(f"{self._path.name}.lock")
        with stored(str(self._path)), self._disk.lock(lock):
            if epoch > self.last():
                write_private(self._disk, self._path, str(epoch).encode())


class Attestor:
    """Keeps the appraised enclave of one gateway; safe to share between threads.

    Parameters
    ----------
    get_evidence : callable
        Sends a nonce and returns the evidence that answers it.
    trust : TrustPolicy
        What this node accepts.
    witness : EpochWitness
        Where the highest epoch is remembered.
    clock, rng : Clock, Rng
        Age of the appraisal; source of nonces.
    """

    def __init__(
        self,
        get_evidence: Callable[[bytes], bytes],
        trust: TrustPolicy,
        witness: EpochWitness,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._get_evidence, self._trust, self._witness = get_evidence, trust, witness
        self._clock, self._rng = clock, rng
        self._lock = threading.Lock()
        self._attested: Attested | None = None
        self._renew_at = 0.0

    def current(self) -> Attested:
        """Return the appraised enclave, challenging it only when none is remembered.

        Raises
        ------
        EvidenceRejected
            The enclave does not meet the trust policy.
        """
        with self._lock:
            if self._attested is None or self._clock.now() >= self._renew_at:
                self._attested = self._challenge()
            return self._attested

    def refresh(self) -> Attested:
        """Challenge the enclave now; raises as `current` does."""
        with self._lock:
            self._attested = self._challenge()
            return self._attested

    def _challenge(self) -> Attested:
        nonce = self._rng.bytes(NONCE_BYTES)
        evidence = self._get_evidence(nonce)
        last_epoch = self._witness.last()
        attested = self._trust.appraise(evidence, nonce, last_epoch, self._clock)
        if attested.epoch > last_epoch:
            self._witness.advance(attested.epoch)
        self._renew_at = self._clock.now() + _MAX_AGE
        return attested
