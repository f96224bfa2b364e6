"""Replies that hold what no SuperNode sends; a SuperLink passes them on."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid

from fl_server.strategy.flwr_compat import announcements_of
from fl_sim.flwr_compat import adopt_identity


@pytest.fixture(autouse=True)
def flower_process() -> None:
    adopt_identity(1)


def task() -> Message:
    message = Message(RecordDict(), dst_node_id=7, message_type=MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


class SuperLink:
    """Answers the runtime API about one reply, whose head is announced and may be another's."""

    def __init__(self, reply: Message, head: Any = None, *, garble: bool = False) -> None:
        head = reply if head is None else head
        self.reply, self.tree = reply, get_object_tree(head)
        self.objects = {name: each.deflate() for name, each in get_all_nested_objects(head).items()}
        reply.metadata.__dict__["_message_id"] = head.object_id
        if garble:
            self.objects = {name: _garbled(content) for name, content in self.objects.items()}

    def PullMessages(self, _: object) -> PullAppMessagesResponse:
        proto = message_to_proto(remove_content_from_message(self.reply))
        return PullAppMessagesResponse(messages_list=[proto], message_object_trees=[self.tree])

    def PullObject(self, request: Any) -> PullObjectResponse:
        content = self.objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, _: object) -> ConfirmMessageReceivedResponse:
        return ConfirmMessageReceivedResponse()


def _garbled(content: bytes) -> bytes:
    head, _, body = content.partition(b"\0")
    return head + b"\0" + b"\xff" * len(body)


def pulled(link: Any, asked: Message) -> list[Message]:
    grid: Any = HttpGrid(token="token")
    grid._client = link
    grid.set_run(Run.create_empty(1))
    announce = announcements_of(grid)
    assert announce is not None
    return [reply for _, fetch in announce([asked.metadata.message_id]) for reply in fetch()]


def test_a_reply_is_returned_as_it_was_sent() -> None:
    asked = task()
    reply = Message(RecordDict({"config": ConfigRecord({"a": 1})}), reply_to=asked)
    (found,) = pulled(SuperLink(reply), asked)
    assert found.content["config"]["a"] == 1


@pytest.mark.parametrize("case", ["garbled", "no message", "of another task"])
def test_an_unreadable_reply_is_an_error_of_its_node(case: str) -> None:
    asked = task()
    reply = Message(RecordDict({"config": ConfigRecord({"a": 1})}), reply_to=asked)
    head = {
        "garbled": reply,
        "no message": ConfigRecord({"a": 1}),
        "of another task": Message(RecordDict(), reply_to=task()),
    }[case]
    (found,) = pulled(SuperLink(reply, head, garble=case == "garbled"), asked)
    assert found.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert found.metadata.reply_to_message_id == asked.metadata.message_id


def test_a_superlink_that_is_away_is_no_fault_of_the_node() -> None:
    class Away(SuperLink):
        def ConfirmMessageReceived(self, _: object) -> ConfirmMessageReceivedResponse:
            raise httpx.ConnectError("away")

    asked = task()
    with pytest.raises(httpx.ConnectError):
        pulled(Away(Message(RecordDict(), reply_to=asked)), asked)
