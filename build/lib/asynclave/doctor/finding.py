"""One line of the doctor's answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How good a finding is: fine, weaker than it could be, or wrong."""

    OK = "ok"
    WEAK = "weak"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it if it is not fine."""

    topic: str
    name: str
    state: State
    found: str
    advice: str = ""
