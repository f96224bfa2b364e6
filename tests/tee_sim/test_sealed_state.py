"""What a platform keeps for its enclaves: keys, sealed states and counters."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from fl_protocol.codes import ConfigInvalid
from fl_protocol.ports import LocalDisk
from tee_sim.channel import Channel, ChannelClosed
from tee_sim.counter import FileCounter
from tee_sim.enclave.memory import PlatformVault
from tests.support.enclave import state_in


def test_each_image_has_its_own_key_that_outlives_the_launcher(tmp_path: Path) -> None:
    one, other = "ab" * 48, "cd" * 48
    key = state_in(tmp_path).key_for(one)
    assert key == state_in(tmp_path).key_for(one) != state_in(tmp_path).key_for(other)
    assert (tmp_path / "root.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("length", [0, 31, 33])
def test_no_key_is_derived_from_a_damaged_root(tmp_path: Path, length: int) -> None:
    (tmp_path / "root.key").write_bytes(bytes(length))
    with pytest.raises(ConfigInvalid, match=rf"root\.key is damaged: it has {length} bytes"):
        state_in(tmp_path).key_for("ab" * 48)
    assert (tmp_path / "root.key").read_bytes() == bytes(length)


def test_state_survives_the_launcher_and_counts(tmp_path: Path) -> None:
    name = "0" * 64
    assert state_in(tmp_path).load(name) == (0, b"")
    state_in(tmp_path).store(name, b"one")
    state_in(tmp_path).store(name, b"two")
    assert state_in(tmp_path).load(name) == (2, b"two")


def test_a_damaged_counter_is_named(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("x")
    with pytest.raises(ConfigInvalid, match="n is damaged"):
        FileCounter(tmp_path / "n", LocalDisk()).value()


@pytest.mark.parametrize(
    "header",
    [{"op": "LOAD", "name": "../root.key"}, {"op": "DELETE", "name": "0" * 64}, {"op": "STORE"}],
)
def test_platform_takes_nothing_else_from_an_enclave(
    tmp_path: Path, header: dict[str, Any]
) -> None:
    here, there = socket.socketpair()
    keeper = state_in(tmp_path).serve(there)
    with here:
        Channel(here).send(header)
        with pytest.raises(ChannelClosed):
            Channel(here).receive()
        keeper.join(10)
    assert not keeper.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_enclave_asks_its_platform(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    keeper = state_in(tmp_path).serve(there)
    with here:
        vault = PlatformVault(Channel(here))
        vault.store("0" * 64, b"sealed")
        assert vault.load("0" * 64) == (1, b"sealed")
    keeper.join(10)
