"""What may be used once, and for how long that is remembered."""

import pytest

from fl_protocol.codes import GatewayUnavailable
from fl_protocol.replay import ReplayMemory


def test_a_thing_is_used_once_while_it_could_be_used_again() -> None:
    memory = ReplayMemory(10.0)
    assert memory.use("a", 0.0)
    assert not memory.use("a", 10.0)
    assert memory.use("a", 10.1)


def test_a_full_memory_refuses_until_something_has_expired() -> None:
    memory = ReplayMemory(10.0, capacity=2)
    memory.use("a", 0.0)
    memory.use("b", 5.0)
    with pytest.raises(GatewayUnavailable, match="OVERLOADED"):
        memory.use("c", 10.0)
    assert memory.use("c", 10.1)


def test_a_thing_used_while_the_clock_was_ahead_does_not_fill_the_memory() -> None:
    memory = ReplayMemory(10.0, capacity=5)
    memory.use("ahead", 86400.0)
    for turn in range(100):
        assert memory.use(f"a{turn}", 5.0 * turn)
    assert not memory.use("ahead", 86400.0)
    assert memory.use("ahead", 86411.0)
