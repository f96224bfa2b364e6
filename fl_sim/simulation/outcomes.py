"""How tasks end, by name."""

from __future__ import annotations

from strategies.reject import Reject

ACCEPTED = "accepted"
"""The update was merged or waits."""
FAILED = "failed"
"""The task broke off."""
REFUSALS = frozenset(code.value for code in Reject) - {Reject.TOO_STALE.value}
"""Codes of updates that count as not delivered; late ones were what was asked for."""
