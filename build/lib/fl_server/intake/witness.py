"""Watches one enclave epoch's hash chain with the records that reach this side.

Every record names the digest of the one before. Not all records come here, or in order, so a link
is checked as soon as both of its ends are known.
"""

from __future__ import annotations

from fl_protocol.codes import Code, ReceiptRejected
from fl_protocol.receipts import GENESIS, Chained, record_digest
from fl_protocol.signatures import Signed


class ChainWitness:
    """Finds two records that cannot belong to the same chain; starts afresh with each epoch."""

    def __init__(self) -> None:
        self._digests: dict[int, str] = {-1: GENESIS}
        self._previous: dict[int, str] = {}

    def observe(self, record: Chained, signed: Signed) -> None:
        """Add a verified record.

        Raises
        ------
        ReceiptRejected
            The chain was forked, edited or reordered.
        """
        digest = record_digest(signed)
        known = self._digests.get(record.seq, digest)
        before = self._digests.get(record.seq - 1, record.prev)
        after = self._previous.get(record.seq + 1, digest)
        if known != digest or before != record.prev or after != digest:
            raise ReceiptRejected(
                Code.RECEIPT_INVALID,
                f"the enclave's record {record.seq} contradicts one it signed before; "
                "do not trust this enclave and keep its log",
            )
        self._digests[record.seq] = digest
        self._previous[record.seq] = record.prev
