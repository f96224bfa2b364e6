"""What the ledger says: one row for each version, and what became of the updates in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fl_protocol import canonical

_MAX_ROW_BYTES = 64 << 20
# The types of the members, as encoded.
_RECORDED = (str, str, int, int, int, int, str, str, str)
_ROW = {
    "number": int,
    "version": int,
    "model_digest": str,
    "at": str,
    "entry": int,
    "updates": list,
    "about": dict,
}


@dataclass(frozen=True)
class Recorded:
    """What became of one update.

    Attributes
    ----------
    update_id, client : str
        Which, and whose.
    entry : int
        Its number in the journal.
    base_version, num_examples, staleness : int
        What it claimed, and how many versions it lagged behind when it came.
    outcome : str
        "accepted" or the code of its refusal.
    weight : float
        Its weight in the merge, 0 if it was refused.
    digest : str
        Hex SHA-256 of its float32 bytes.
    """

    update_id: str
    client: str
    entry: int
    base_version: int
    num_examples: int
    staleness: int
    outcome: str
    weight: float
    digest: str

    def members(self) -> list[Any]:
        """Return it as canonical JSON data; the weight is the shortest decimal that is exact."""
        return [
            self.update_id,
            self.client,
            self.entry,
            self.base_version,
            self.num_examples,
            self.staleness,
            self.outcome,
            repr(self.weight),
            self.digest,
        ]

    @classmethod
    def from_members(cls, members: Sequence[Any]) -> Recorded:
        """Read `members` again; raises ValueError."""
        if tuple(map(type, members)) != _RECORDED:
            raise ValueError("an update of another form")
        update_id, client, entry, base, examples, staleness, outcome, weight, digest = members
        return cls(
            update_id, client, entry, base, examples, staleness, outcome, float(weight), digest
        )


@dataclass(frozen=True)
class Row:
    """One link of the chain.

    Attributes
    ----------
    number : int
        Counts from 0, the opening of the run.
    version : int
        The version it made; that of the row before for a row of refusals only.
    model_digest : str
        Hex SHA-256 of that version's float32 bytes.
    at : float
        Seconds on the run's clock.
    entry : int
        The journal's newest entry at that time.
    updates : tuple of Recorded
        Those merged, in the order in which they came, and those refused.
    about : dict
        What the opening says of the run; empty in other rows.
    """

    number: int
    version: int
    model_digest: str
    at: float
    entry: int
    updates: tuple[Recorded, ...]
    about: dict[str, Any]

    def encode(self) -> bytes:
        """Return the bytes that the chain covers."""
        return canonical.encode(
            {
                "number": self.number,
                "version": self.version,
                "model_digest": self.model_digest,
                "at": repr(self.at),
                "entry": self.entry,
                "updates": [update.members() for update in self.updates],
                "about": self.about,
            }
        )

    @classmethod
    def decode(cls, content: bytes) -> Row:
        """Read what `encode` wrote; raises ValueError."""
        members = canonical.decode_object(content, _MAX_ROW_BYTES)
        if {name: type(value) for name, value in members.items()} != _ROW:
            raise ValueError("a row of another form")
        if not all(type(update) is list for update in members["updates"]):
            raise ValueError("an update of another form")
        return cls(
            members["number"],
            members["version"],
            members["model_digest"],
            float(members["at"]),
            members["entry"],
            tuple(map(Recorded.from_members, members["updates"])),
            members["about"],
        )
