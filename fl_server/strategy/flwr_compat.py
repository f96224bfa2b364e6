"""Every Flower internal the strategies use, in one place, for one Flower version."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from fl_protocol.flower import require_supported

try:
    from flwr.app.message.message import make_message
    from flwr.common.constant import ErrorCode
    from flwr.common.serde_utils import metadata_from_proto
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
    from flwr.serverapp.strategy.strategy_utils import log_strategy_start_info
    from flwr.supercore.logger import log
except ImportError:
    # A version that moved its internals is, first of all, an unsupported version.
    require_supported()
    raise

__all__ = [
    "LOST_ON_THE_WAY",
    "announcements_of",
    "log",
    "log_strategy_start_info",
    "with_content",
]

LOST_ON_THE_WAY = frozenset(
    {
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    }
)
"""Codes of errors that a SuperLink reports in the place of a node or answer that was lost."""


def with_content(message: Message, content: RecordDict) -> Message:
    """Return the same message, its metadata included, with other content."""
    return make_message(message.metadata, content)


def announcements_of(
    grid: Grid,
) -> Callable[[Sequence[str]], Iterable[tuple[str, Callable[[], Iterable[Message]]]]] | None:
    """Return how a grid announces replies, for `BackgroundPulls`; None if it has them at once.

    ``HttpGrid.pull_messages`` asks which replies there are and then fetches one after the other.
    Here the two are apart: what was announced is fetched, by the same method, reply by reply.
    """
    # Not imported for the question: that takes a second, and who has such a grid has it already.
    module = sys.modules.get("flwr.superlink.grid.http_grid")
    if module is None or type(grid) is not module.HttpGrid or "pull_messages" in vars(grid):
        # Another one, or one that somebody listens to.
        return None
    return partial(_announced, grid)


def _announced(
    grid: Any, message_ids: Sequence[str]
) -> list[tuple[str, Callable[[], Iterable[Message]]]]:
    found = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    pairs = zip(found.messages_list, found.message_object_trees, strict=True)
    return [
        (message.metadata.reply_to_message_id, partial(_fetched, grid, message, tree))
        for message, tree in pairs
    ]


def _fetched(grid: Any, announced: Any, tree: Any) -> list[Message]:
    """Fetch a reply; an error stands for one that is not what a SuperNode sends.

    A SuperLink looks at hashes and lengths of what a node sends it, and at nothing else.
    """
    asked, other = announced.metadata.reply_to_message_id, copy.copy(grid)
    other._client = _OneReply(grid._runtime_client, announced, tree)
    try:
        replies = list(other.pull_messages([asked]))
        if all(reply.metadata.reply_to_message_id == asked for reply in replies):
            return replies
        why = "it answers another message"
    except httpx.HTTPError:
        raise
    except Exception as error:
        why = repr(error)
    unreadable = Error(ErrorCode.MESSAGE_UNAVAILABLE, f"The reply could not be read: {why}")
    return [make_message(metadata_from_proto(announced.metadata), error=unreadable)]


class _OneReply:
    """The grid's client, to which one reply has been announced already."""

    def __init__(self, client: Any, message: Any, tree: Any) -> None:
        self._client = client
        self._response = PullAppMessagesResponse(
            messages_list=[message], message_object_trees=[tree]
        )

    def PullMessages(self, _: PullAppMessagesRequest) -> PullAppMessagesResponse:
        return self._response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
