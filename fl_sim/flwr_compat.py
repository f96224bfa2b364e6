"""The Flower internals a grid needs, in one place."""

from __future__ import annotations

import copy

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["ErrorCode", "Run", "adopt_identity", "detach", "snapshot", "stamp"]


def adopt_identity(run_id: int) -> None:
    """Let ``Message(...)`` work in this process, which no SuperLink has started.

    Flower keeps the identity of the running task in class attributes; an identity that is
    already set (this process does run under Flower) is left alone.
    """
    if TaskIdentity._run_id is None:
        TaskIdentity.run_id = run_id
    if TaskIdentity._node_id is None:
        TaskIdentity.node_id = SUPERLINK_NODE_ID
    if TaskIdentity._task_id is None:
        TaskIdentity.task_id = 1


def stamp(message: Message, message_id: str) -> None:
    """Set the message id, which a SuperLink would assign."""
    message.metadata.__dict__["_message_id"] = message_id


def snapshot(message: Message, message_id: str) -> Message:
    """Return the message as the node will receive it.

    Records are copied (array bytes are shared, they are immutable), as serialisation would do:
    what either side changes afterwards is not seen by the other.
    """
    sent = Message(
        _copy(message.content),
        message.metadata.dst_node_id,
        message.metadata.message_type,
        ttl=message.metadata.ttl,
        group_id=message.metadata.group_id,
    )
    stamp(sent, message_id)
    return sent


def detach(reply: Message) -> None:
    """Make a reply's content its own, as it arrives at the server; see `snapshot`."""
    if reply.has_content():
        reply.content = _copy(reply.content)


def _copy(content: RecordDict) -> RecordDict:
    # Metrics and settings may be lists.
    return RecordDict(
        {
            key: ArrayRecord(dict(record))
            if isinstance(record, ArrayRecord)
            else copy.deepcopy(record)
            for key, record in content.items()
        }
    )
