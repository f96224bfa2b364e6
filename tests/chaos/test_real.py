from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynclave.chaos.real.proxy import FaultProxy, Mood
from tests.deploy.machines import missing


@pytest.mark.timeout(600)
def test_two_minutes_of_torment_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asynclave", "chaos", "real", "--minutes", "2", "--json"]
    finished = subprocess.run(
        [*command, "--folder", str(tmp_path / "chaos")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    outcome = json.loads(finished.stdout)
    assert (outcome["lost"], outcome["flaw"]) == ([], "")
    assert outcome["acknowledged"] == outcome["released"] + outcome["waiting"] > 50
    assert sum(outcome["faults"].values()) >= 10
    if not missing():
        assert outcome["left_out"] == {}
    assert outcome["versions"] > 5


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(echo)
    proxy.start()
    yield proxy
    proxy.stop()


def connected(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


@pytest.mark.parametrize("mood", [Mood.CLEAR, Mood.DELAY, Mood.SLOW])
def test_a_patient_connection_gets_everything_through(proxy: FaultProxy, mood: Mood) -> None:
    proxy.mood = mood
    sent = bytes(range(256)) * 8
    with connected(proxy) as there:
        there.sendall(sent)
        got = b""
        while len(got) < len(sent):
            got += there.recv(65536)
    assert got == sent


def test_a_cut_connection_ends_in_the_middle(proxy: FaultProxy) -> None:
    proxy.mood = Mood.CUT
    with connected(proxy) as there:
        there.sendall(bytes(4000))
        got = b""
        try:
            while data := there.recv(65536):
                got += data
        except ConnectionResetError:
            pass
    assert len(got) < 4000


def test_a_black_hole_answers_nothing_until_it_hangs_up(proxy: FaultProxy) -> None:
    proxy.mood = Mood.BLACK_HOLE
    with connected(proxy) as there:
        there.settimeout(0.3)
        there.sendall(b"hello")
        with pytest.raises(TimeoutError):
            there.recv(10)
        proxy.hang_up()
        there.settimeout(5)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while there.recv(10):
                pass
            raise ConnectionResetError
