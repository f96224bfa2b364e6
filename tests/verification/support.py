"""Where the records of the audited run stand, and what is found after a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asynclave.verification.audit import audit

RUN = "audited"
# Opening, refusal, two receipts, release; then two receipts and a release after a restart.
REFUSAL, FIRST_RECEIPT, FIRST_RELEASE, SECOND_OPENING, LAST = 1, 2, 4, 5, 8


def flaw(run: Path) -> tuple[int, str] | None:
    found = audit(run).flaw
    return None if found is None else (found.index, found.kind)


def edit(run: Path, change: Callable[[list[bytes]], object]) -> None:
    path = run / "receipts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))
