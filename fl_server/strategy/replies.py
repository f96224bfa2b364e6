"""What a run reads from nodes' replies, beside the update itself."""

from __future__ import annotations

from flwr.app import Error, Message, RecordDict

from fl_protocol.codes import Code
from fl_protocol.flower import UTILISATION
from fl_server.strategy.flwr_compat import LOST_ON_THE_WAY, with_content


def without_arrays(reply: Message) -> Message:
    """Keep the metrics for `aggregate_train`; the arrays have been counted and are large."""
    return with_content(reply, RecordDict(dict(reply.content.metric_records)))


def was_lost(reply: Message) -> bool:
    """Return whether the node or its answer was lost on the way, so that no app gave it."""
    return reply.has_error() and reply.error.code in LOST_ON_THE_WAY


def reason_in(error: Error) -> str:
    """Return the reason of a node's error, or its code if it gives none."""
    return (error.reason or "").strip() or f"error code {error.code}"


def code_in(reason: str) -> str:
    """Return the code a client's error begins with ("CODE: sentence"), or CLIENT_FAILED."""
    head = reason.partition(":")[0].strip()
    return head if head in Code.__members__ else Code.CLIENT_FAILED.value


def utilisation_in(content: RecordDict) -> float | None:
    """Return the load in per cent that a node reports among its metrics; None if it does not."""
    for metrics in content.metric_records.values():
        value = metrics.get(UTILISATION)
        if isinstance(value, (int, float)):
            return float(value)
    return None
