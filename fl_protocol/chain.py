"""What was done to a chain of records after the enclave signed it.

A chain is what a server wrote down: per enclave epoch the opening of its run and everything the
enclave signed since, in order, nothing left out. Epochs follow each other. The enclave may have
signed records before that opening, of another run or of this one, which was then opened anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fl_protocol.codes import ReceiptRejected
from fl_protocol.receipts import (
    GENESIS,
    Chained,
    Head,
    Opening,
    is_from,
    read_record,
    record_digest,
)
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
        None when nothing was changed. Records removed together with the head that covers them,
        or from the beginning of an epoch up to another opening of the run, cannot be missed here;
        whoever holds one of their receipts can tell.
    """
    before: Chained | None = None
    for index, link in enumerate(links):
        fault = _signature_fault(links, index, keys, heads)
        if fault is None and link.record is not None:
            fault = _order_fault(links, index, link.record, before, heads) or _head_fault(
                index, link, link.record, heads
            )
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
        return fault or _start_fault(links, index, record, heads)
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


def _start_fault(
    links: Sequence[Link], index: int, record: Chained, heads: Mapping[int, Head]
) -> Fault | None:
    if not isinstance(record, Opening) or record.run_id != _run_of(links):
        return _without_opening(links, index, record)
    if (record.seq == 0) != (record.prev == GENESIS):
        detail = f"the enclave signed record {record.seq} and another beginning of its chain"
        return Fault(index, Damage.FORKED, detail)
    head = heads.get(record.epoch)
    if head is not None and head.length <= record.seq:
        detail = f"the last of the {head.length} records that the head counts is missing"
        return Fault(index, Damage.REMOVED, detail)
    return None


def _run_of(links: Sequence[Link]) -> str | None:
    openings = (link.record for link in links if isinstance(link.record, Opening))
    return next((opening.run_id for opening in openings), None)


def _without_opening(links: Sequence[Link], index: int, first: Chained) -> Fault:
    moved = any(
        isinstance(later.record, Opening)
        and (later.record.epoch, later.record.run_id) == (first.epoch, _run_of(links))
        and later.record.seq < first.seq
        for later in links[index + 1 :]
    )
    return _absent(index, "the opening of the run", moved)


def _head_fault(index: int, link: Link, record: Chained, heads: Mapping[int, Head]) -> Fault | None:
    head = heads.get(record.epoch)
    if head is None or record.seq != head.length - 1 or link.digest == head.last:
        return None
    return Fault(index, Damage.FORKED, f"the signed head names another record {record.seq}")


def _missing(links: Sequence[Link], index: int, epoch: int, seq: int, what: str) -> Fault:
    """Tell what stands later in the chain from what is in it no more."""
    later = (link.record for link in links[index + 1 :] if link.record)
    return _absent(index, what, any((r.epoch, r.seq) == (epoch, seq) for r in later))


def _absent(index: int, what: str, moved: bool) -> Fault:
    if moved:
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
            moved = any(link.record and link.record.epoch == epoch for link in links[index + 1 :])
            return _absent(index, f"every record of epoch {epoch}", moved)
    return None


def _span(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"the records {first} to {last}"
