"""What the enclave signed: one hash chain, and the receipt of every update it accepted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.receipts import (
    GENESIS,
    Chained,
    Head,
    Opening,
    Receipt,
    Release,
    UpdateStatus,
    record_digest,
    sign,
)
from fl_protocol.signatures import Signed

# Of about 1 kB each; whoever keeps the chain fetches them with each release.
_KEPT_RECORDS = 8192


@dataclass(frozen=True)
class _Entry:
    client: str
    body_digest: str
    expires: int
    receipt: Signed


class _Withheld(NamedTuple):
    """A release that was not handed out: its version, its number, and the link before it."""

    version: int
    seq: int
    prev: str


class ReceiptLedger:
    """Signs records in one chain and answers a repeated update with its first receipt.

    Entries of released updates outlive the run they came in: a host that opens the run again
    must not have the same update counted in a second aggregate, whose difference to the first
    would expose others.

    The chain is told up to the first release that was not handed out. The digest in its record can
    be as good as the model itself, to whoever can guess that; and nobody may learn anything of a
    release that is not remembered beyond this enclave.

    Parameters
    ----------
    key : Ed25519PrivateKey
        The enclave's receipt key.
    epoch : int
        The enclave's boot count.
    """

    def __init__(self, key: Ed25519PrivateKey, epoch: int) -> None:
        self._key, self._epoch = key, epoch
        self._prev, self._seq = GENESIS, 0
        self._kept: deque[Signed] = deque(maxlen=_KEPT_RECORDS)
        self._entries: dict[str, _Entry] = {}
        self._unreleased: set[str] = set()
        self._withheld: deque[_Withheld] = deque()

    @property
    def withholds(self) -> bool:
        """Whether a release was made and not handed out."""
        return bool(self._withheld)

    def recall(self, update_id: str, body_digest: str) -> Signed | None:
        """Return the receipt of an accepted update, or None for an unknown id.

        Raises
        ------
        EnvelopeRejected
            ``ENV_REPLAY_MISMATCH``: the id was accepted with other content.
        """
        entry = self._entries.get(update_id)
        if entry is None:
            return None
        if entry.body_digest != body_digest:
            raise EnvelopeRejected(Code.ENV_REPLAY_MISMATCH)
        return entry.receipt

    def receipt(self, client: str, update_id: str) -> Signed | None:
        """Return the receipt of a client's accepted update while it is remembered."""
        entry = self._entries.get(update_id)
        return entry.receipt if entry is not None and entry.client == client else None

    def status(self, status: UpdateStatus) -> Signed:
        """Sign what became of an update; that is no part of the chain."""
        return sign(replace(status, epoch=self._epoch), self._key)

    def accept(self, receipt: Receipt, expires: int) -> Signed:
        """Sign the receipt of an accepted update and remember it until the update expires."""
        signed = self._chain(receipt)
        self._entries[receipt.update_id] = _Entry(
            receipt.client_id, receipt.body_digest, expires, signed
        )
        self._unreleased.add(receipt.update_id)
        return signed

    def refuse(self, receipt: Receipt) -> Signed:
        """Sign the receipt of a refused update; it may be sent again."""
        return self._chain(receipt)

    def open(self, opening: Opening) -> Signed:
        """Sign that a run was opened; what was buffered is thrown away and may be sent again.

        Raises
        ------
        CanonicalError
            The run's name is not valid; nothing has changed.
        """
        signed = self._chain(opening)
        self.discard_unreleased()
        return signed

    def discard_unreleased(self) -> None:
        """Forget what was accepted since the last release: it was thrown away."""
        for update_id in self._unreleased:
            self._entries.pop(update_id, None)
        self._unreleased.clear()

    def release(self, release: Release) -> Signed:
        """Sign the record of a release, which is withheld; everything accepted so far is in it."""
        self._unreleased.clear()
        self._withheld.append(_Withheld(release.version, self._seq, self._prev))
        return self._chain(release)

    def handed_out(self, version: int) -> None:
        """Tell the releases up to a version from now on."""
        while self._withheld and self._withheld[0].version <= version:
            self._withheld.popleft()

    def forget_expired(self, now: float) -> None:
        """Forget updates that are refused as expired from now on."""
        expired = [name for name, entry in self._entries.items() if entry.expires < now]
        for update_id in expired:
            del self._entries[update_id]

    def since(self, seq: int, count: int) -> list[Signed]:
        """Return up to `count` records from number `seq` on, if neither forgotten nor withheld."""
        first = self._seq - len(self._kept)
        start, end = max(0, seq - first), self._end()[0] - first
        return [self._kept[at] for at in range(start, min(start + count, end))]

    def head(self, now: float) -> Signed:
        """Sign where the chain that is told ends; `now` in Unix seconds."""
        return sign(Head(1, self._epoch, *self._end(), int(now)), self._key)

    def _end(self) -> tuple[int, str]:
        """Return the length of the chain that is told, and its last link."""
        if self._withheld:
            return self._withheld[0].seq, self._withheld[0].prev
        return self._seq, self._prev

    def _chain(self, record: Chained) -> Signed:
        signed = sign(replace(record, epoch=self._epoch, seq=self._seq, prev=self._prev), self._key)
        self._prev, self._seq = record_digest(signed), self._seq + 1
        self._kept.append(signed)
        return signed
