"""What a chain of records does not cover although nothing in it is wrong, in words."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise

from fl_protocol.receipts import Chained


def silent_epochs(records: Sequence[Chained], attested: AbstractSet[int]) -> list[str]:
    """Tell of enclaves without a record, which an honest server leaves as well.

    Evidence is kept before the run is opened, and an enclave may end before a run is opened in it.

    Parameters
    ----------
    records : sequence of Chained
        A chain without a fault.
    attested : set of int
        Epochs of which there is evidence.
    """
    recorded = sorted({record.epoch for record in records})
    notes = [
        f"evidence-{epoch}.json: there is no record of that enclave; the run was not opened in it, "
        "or its records were left out"
        for epoch in sorted(attested - set(recorded))
    ]
    for before, after in pairwise(recorded):
        if any(epoch not in attested for epoch in range(before + 1, after)):
            notes.append(
                f"between epochs {before} and {after} there were enclaves of which nothing is "
                "here; the run was not opened in them, or all of it was left out"
            )
    return notes


def begun_before(records: Sequence[Chained]) -> list[str]:
    """Tell of enclaves that had signed something before the first opening of the run in a chain.

    An honest server leaves out what was signed for another run, and for this one before it was
    opened anew by a server that knew nothing of the first.
    """
    return [
        f"epoch {record.epoch}: records before number {record.seq} are not here; the enclave "
        "signed them for another run, or for this one before it was opened anew"
        for before, record in zip([None, *records], records, strict=False)
        if record.seq and (before is None or before.epoch != record.epoch)
    ]
