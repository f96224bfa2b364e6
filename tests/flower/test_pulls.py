"""Pulls that hang; a real SuperLink is in tests/deployment/test_lost_reply.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest
from flwr.app import Message, RecordDict

from fl_server.strategy.pulls import MOST_SET_ASIDE, BackgroundPulls


class Replies:
    """A grid whose first announced reply does not become whole before `whole` is set."""

    def __init__(self, hanging: str = "") -> None:
        self.hanging, self.whole = hanging, threading.Event()
        self.handed_out: list[str] = []
        self.pulls = 0

    def pull(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulls += 1
        new = [i for i in message_ids if i not in self.handed_out]
        self.handed_out += new
        if self.hanging in new:
            assert self.whole.wait(60)
        return [Message(RecordDict(), dst_node_id=int(i), message_type="train") for i in new]


def nodes(messages: list[Message]) -> list[int]:
    return [message.metadata.dst_node_id for message in messages]


def settled(pulls: BackgroundPulls) -> list[int]:
    deadline = time.monotonic() + 60
    while not (found := nodes(pulls.take([]))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_what_is_there_is_returned_at_once() -> None:
    pulls = BackgroundPulls(Replies().pull)
    assert nodes(pulls.take(["1", "2"])) == [1, 2]
    assert pulls.take([]) == []


def test_others_are_taken_while_one_hangs_and_it_is_taken_once() -> None:
    grid = Replies(hanging="1")
    pulls = BackgroundPulls(grid.pull, grace=0.05)
    assert pulls.take(["1"]) == []
    assert nodes(pulls.take(["1", "2"])) == [2]
    assert nodes(pulls.take(["1", "2", "3"])) == [3]
    grid.whole.set()
    assert settled(pulls) == [1]
    assert pulls.take(["1", "2", "3"]) == []


def test_no_more_pulls_hang_than_allowed() -> None:
    whole = threading.Event()
    began = []

    def hang(message_ids: Iterable[str]) -> list[Message]:
        began.append(list(message_ids))
        assert whole.wait(60)
        return []

    pulls = BackgroundPulls(hang, grace=0.01)
    for _ in range(MOST_SET_ASIDE + 3):
        pulls.take(["1"])
    assert len(began) == MOST_SET_ASIDE
    whole.set()


def test_an_error_reaches_the_run() -> None:
    def fail(message_ids: Iterable[str]) -> list[Message]:
        raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError, match="gone"):
        BackgroundPulls(fail).take(["1"])
