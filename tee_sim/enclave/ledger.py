"""What the enclave signed: one hash chain, and the receipt of every update it accepted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.receipts import GENESIS, Receipt, Release, record_digest, sign
from fl_protocol.signatures import Signed


@dataclass(frozen=True)
class _Entry:
    body_digest: str
    expires: int
    receipt: Signed


class ReceiptLedger:
    """Signs records in one chain and answers a repeated update with its first receipt.

    Entries of released updates outlive the run they came in: a host that opens the run again
    must not have the same update counted in a second aggregate, whose difference to the first
    would expose others.

    Parameters
    ----------
    key : Ed25519PrivateKey
        The enclave's receipt key.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._prev, self._seq = GENESIS, 0
        self._entries: dict[str, _Entry] = {}
        self._unreleased: set[str] = set()

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

    def accept(self, receipt: Receipt, expires: int) -> Signed:
        """Sign the receipt of an accepted update and remember it until the update expires."""
        signed = self._chain(receipt)
        self._entries[receipt.update_id] = _Entry(receipt.body_digest, expires, signed)
        self._unreleased.add(receipt.update_id)
        return signed

    def release(self, release: Release) -> Signed:
        """Sign the record of a release; everything accepted so far is in it."""
        self._unreleased.clear()
        return self._chain(release)

    def discard_unreleased(self) -> None:
        """Forget the updates of a buffer that was thrown away; they may be sent again."""
        for update_id in self._unreleased:
            self._entries.pop(update_id, None)
        self._unreleased.clear()

    def forget_expired(self, now: float) -> None:
        """Forget updates that are refused as expired from now on."""
        expired = [name for name, entry in self._entries.items() if entry.expires < now]
        for update_id in expired:
            del self._entries[update_id]

    def _chain(self, record: Receipt | Release) -> Signed:
        signed = sign(replace(record, seq=self._seq, prev=self._prev), self._key)
        self._prev, self._seq = record_digest(signed), self._seq + 1
        return signed
