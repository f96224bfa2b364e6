"""Every Flower internal the strategies use, in one place, for one Flower version."""

from __future__ import annotations

from flwr.app import Message, RecordDict

from fl_protocol.flower import require_supported

try:
    from flwr.app.message.message import make_message
    from flwr.serverapp.strategy.strategy_utils import (
        aggregate_metricrecords,
        log_strategy_start_info,
    )
    from flwr.supercore.logger import log
except ImportError:
    # A version that moved its internals is, first of all, an unsupported version.
    require_supported()
    raise

__all__ = [
    "aggregate_metricrecords",
    "log",
    "log_strategy_start_info",
    "with_content",
]


def with_content(message: Message, content: RecordDict) -> Message:
    """Return the same message, its metadata included, with other content."""
    return make_message(message.metadata, content)
