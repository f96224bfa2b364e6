"""Replies that do not become whole; a real SuperLink is in tests/deployment/test_lost_reply.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial

import pytest
from flwr.app import Message, RecordDict

from fl_server.strategy.pulls import MOST_AT_A_TIME, BackgroundPulls, Fetch
from fl_sim.flwr_compat import adopt_identity


@pytest.fixture(autouse=True)
def flower_process() -> None:
    adopt_identity(1)


class Replies:
    """Announces a reply to each message once; some do not become whole before `whole` is set."""

    def __init__(self, *hanging: str) -> None:
        self.hanging, self.whole = hanging, threading.Event()
        self.announced: list[str] = []
        self.fetching = self.most = 0
        self._lock = threading.Lock()

    def announce(self, message_ids: Sequence[str]) -> list[tuple[str, Fetch]]:
        assert not set(self.announced) & set(message_ids)
        self.announced += message_ids
        return [(message_id, partial(self.fetch, message_id)) for message_id in message_ids]

    def fetch(self, message_id: str) -> Iterable[Message]:
        with self._lock:
            self.fetching += 1
            self.most = max(self.most, self.fetching)
        if message_id in self.hanging:
            assert self.whole.wait(60)
        with self._lock:
            self.fetching -= 1
        return [Message(RecordDict(), dst_node_id=int(message_id), message_type="train")]


def taken(pulls: BackgroundPulls, message_ids: Sequence[str], count: int) -> list[int]:
    """Take until there are so many, as the run does; return whose they are."""
    deadline, found = time.monotonic() + 60, []
    while len(found) < count:
        assert time.monotonic() < deadline
        left = [message_id for message_id in message_ids if int(message_id) not in found]
        found += [reply.metadata.dst_node_id for reply in pulls.take(left)]
    return sorted(found)


def test_whole_replies_are_returned() -> None:
    pulls = BackgroundPulls(Replies().announce)
    assert taken(pulls, ["1", "2"], 2) == [1, 2]
    assert pulls.take([]) == []


def test_others_are_taken_while_one_hangs_and_it_is_taken_once() -> None:
    grid = Replies("1")
    pulls = BackgroundPulls(grid.announce, grace=0.05)
    assert pulls.take(["1"]) == []
    assert taken(pulls, ["1", "2"], 1) == [2]
    assert taken(pulls, ["1", "3", "4"], 2) == [3, 4]
    grid.whole.set()
    assert taken(pulls, ["1"], 1) == [1]
    assert grid.announced == ["1", "2", "3", "4"]


def test_one_that_hangs_does_not_keep_those_announced_with_it() -> None:
    grid = Replies("2")
    pulls = BackgroundPulls(grid.announce, grace=0.05)
    assert taken(pulls, ["1", "2", "3"], 2) == [1, 3]
    grid.whole.set()


def test_a_bounded_number_is_fetched_at_a_time() -> None:
    names = [str(number) for number in range(1, 2 * MOST_AT_A_TIME)]
    grid = Replies(*names)
    pulls = BackgroundPulls(grid.announce, grace=0.2)
    assert pulls.take(names) == []
    assert grid.fetching == MOST_AT_A_TIME
    grid.whole.set()
    assert len(taken(pulls, names, len(names))) == len(names)
    assert grid.most == MOST_AT_A_TIME


def test_an_error_reaches_the_run() -> None:
    def fail() -> Iterable[Message]:
        raise ConnectionError("the SuperLink is gone")

    pulls = BackgroundPulls(lambda message_ids: [(message_ids[0], fail)])
    with pytest.raises(ConnectionError, match="gone"):
        pulls.take(["1"])
