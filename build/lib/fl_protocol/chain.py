"""What was done to a chain of records after the enclave signed it.

A chain is what a server wrote down: per enclave epoch the opening of its run and everything the
enclave signed since, in order, nothing left out. Epochs follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fl_protocol.codes import ReceiptRejected
from fl_protocol.receipts import Chained, Head, Opening, is_from, read_record, record_digest
from fl_protocol.signatures import Signed


class Damage(StrEnum):
    """What can be wrong with a chain."""

    EDITED = "edited"
    REMOVED = "removed"
    REORDERED = "reordered"
    DUPLICATED = "duplicated"
    SIGNATURE = "signature"
    FORKED = "forked"


@dataclass(frozen=True)
class Fault:
    """The first record that is not as it was signed; one that is missing has the next's index."""

    index: int
    damage: Damage
    detail: str


@dataclass(frozen=True)
class Link:
    """A record in its signed form and read; None if it cannot be read."""

    signed: Signed
    record: Chained | None

    @classmethod
    def of(cls, signed: Signed) -> Link:
        """Read a record without looking at its signature."""
        try:
            return cls(signed, read_record(signed))
        except ReceiptRejected:
            return cls(signed, None)

    @property
    def digest(self) -> str:
        """What the next record names as ``prev``."""
        return record_digest(self.signed)


def first_fault(
    links: Sequence[Link], keys: Mapping[int, bytes], heads: Mapping[int, Head]
) -> Fault | None:
    """Find the first record that is not as the enclave signed it.

    Parameters
    ----------
    links : sequence of Link
        The chain.
    keys : mapping of int to bytes
        Raw receipt key by epoch, from appraised evidence.
    heads : mapping of int to Head
        Where the chain of each epoch ended when the enclave was asked last; verified.

    Returns
    -------
    Fault or None
        None when nothing was changed. Records removed together with the head that covers them
        cannot be missed here; whoever holds one of their receipts can tell.
    """
    before: Chained | None = None
    for index, link in enumerate(links):
        fault = _signature_fault(links, index, keys, heads)
        if fault is None and link.record is not None:
            fault = _order_fault(links, index, link.record, before, heads)
        if fault is not None:
            return fault
        before = link.record
    return _end_fault(links, len(links), before, heads) or _skipped(
        links, len(links), before, max(heads, default=-1) + 1, heads
    )


def _signature_fault(
    links: Sequence[Link], index: int, keys: Mapping[int, bytes], heads: Mapping[int, Head]
) -> Fault | None:
    link = links[index]
    if link.record is None:
        return Fault(index, Damage.EDITED, "the record cannot be read")
    epoch = link.record.epoch
    if epoch in keys and is_from(link.record, link.signed, keys[epoch]):
        return None
    if not _is_linked(links, index, heads):
        return Fault(index, Damage.EDITED, "the record is not what the enclave signed")
    return Fault(index, Damage.SIGNATURE, f"not signed by the attested enclave of epoch {epoch}")


def _is_linked(links: Sequence[Link], index: int, heads: Mapping[int, Head]) -> bool:
    """Say whether what follows was made after this very record, whoever signed it."""
    after = links[index + 1].record if index + 1 < len(links) else None
    if after is not None and not isinstance(after, Opening):
        return after.prev == links[index].digest
    return not heads or links[index].digest in {head.last for head in heads.values()}


def _order_fault(
    links: Sequence[Link],
    index: int,
    record: Chained,
    before: Chained | None,
    heads: Mapping[int, Head],
) -> Fault | None:
    if before is None or record.epoch > before.epoch:
        fault = _end_fault(links, index, before, heads) or _skipped(
            links, index, before, record.epoch, heads
        )
        if fault is not None or isinstance(record, Opening):
            return fault
        return _missing(links, index, record.epoch, None, "the opening of the run")
    if record.epoch < before.epoch:
        return Fault(index, Damage.REORDERED, f"epoch {record.epoch} is over before this record")
    if record.seq > before.seq + 1:
        names = _span(before.seq + 1, record.seq - 1)
        return _missing(links, index, record.epoch, before.seq + 1, names)
    if record.seq <= before.seq:
        if any(links[index].digest == link.digest for link in links[:index]):
            return Fault(index, Damage.DUPLICATED, f"record {record.seq} stands here already")
        return Fault(index, Damage.FORKED, f"the enclave signed two records {record.seq}")
    if record.prev != links[index - 1].digest:
        return Fault(index, Damage.FORKED, f"the enclave signed two records {before.seq}")
    return None


def _missing(links: Sequence[Link], index: int, epoch: int, seq: int | None, what: str) -> Fault:
    """Tell what stands later in the chain from what is in it no more."""
    for later in links[index + 1 :]:
        record = later.record
        if record is None or record.epoch != epoch:
            continue
        if record.seq == seq or (seq is None and isinstance(record, Opening)):
            return Fault(index, Damage.REORDERED, f"{what} must stand here")
    return Fault(index, Damage.REMOVED, f"{what} must stand here and is missing")


def _end_fault(
    links: Sequence[Link], index: int, last: Chained | None, heads: Mapping[int, Head]
) -> Fault | None:
    if last is None:
        return None
    epoch, after = last.epoch, last.seq + 1
    head = heads.get(epoch)
    if head is None:
        return Fault(index, Damage.REMOVED, f"no signed head says where epoch {epoch} ends")
    if head.length <= after:
        return None
    names = f"{_span(after, head.length - 1)} of epoch {epoch}"
    return _missing(links, index, epoch, after, names)


def _skipped(
    links: Sequence[Link],
    index: int,
    before: Chained | None,
    until: int,
    heads: Mapping[int, Head],
) -> Fault | None:
    """Find an epoch that has a head but no record between the last one and this."""
    after = -1 if before is None else before.epoch
    for epoch in sorted(heads):
        if after < epoch < until:
            return _missing(links, index, epoch, None, f"every record of epoch {epoch}")
    return None


def _span(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"the records {first} to {last}"
