"""What takes root: volumes that are full, links that are down or narrow."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynclave.chaos.real.equipment import Equipment
from asynclave.chaos.real.namespaces import NetworkNamespace
from asynclave.chaos.real.proxy import FaultProxy
from asynclave.chaos.real.skew import SkewedClock
from asynclave.chaos.real.volumes import Volume

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and networks take root")
# Says how long an echo took, for every line that it is told to send.
ECHO = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
for line in sys.stdin:
    size = int(line)
    connection.sendall(bytes(size))
    while size:
        size -= len(connection.recv(65536))
    print("echoed", flush=True)
"""


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    volume = Volume(tmp_path / "volume")
    yield volume
    volume.unmount()


@AS_ROOT
def test_a_full_volume_takes_nothing_and_is_free_again_afterwards(
    volume: Volume, tmp_path: Path
) -> None:
    folder = tmp_path / "volume"
    (folder / "before").write_bytes(bytes(100_000))
    with volume.full():
        with pytest.raises(OSError) as refused:
            (folder / "during").write_bytes(bytes(100_000))
        assert refused.value.errno == errno.ENOSPC
        (folder / "before").unlink()
        volume.wait(0.2)
        with pytest.raises(OSError):
            (folder / "during").write_bytes(bytes(100_000))
    (folder / "after").write_bytes(bytes(100_000))


@AS_ROOT
def test_what_a_volume_held_stays_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    volume = Volume(folder)
    (folder / "kept").write_text("kept")
    volume.unmount()
    assert not os.path.ismount(folder)
    assert (folder / "kept").read_text() == "kept"


class Inside:
    """A client in a network of its own that echoes through whoever listens there."""

    def __init__(self, network: NetworkNamespace, port: int) -> None:
        command = network.command(sys.executable, "-c", ECHO, str(port))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer()

    def send(self, size: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def network(echo: int) -> Iterator[tuple[NetworkNamespace, Inside]]:
    proxy, equipment = FaultProxy(echo), Equipment()
    equipment.connect(proxy, 1)
    proxy.start()
    inside = Inside(equipment.networks[0], proxy.port)
    yield equipment.networks[0], inside
    inside.close()
    proxy.stop()
    equipment.close()


@AS_ROOT
@pytest.mark.parametrize("trouble", ["cut_off", "narrow"])
def test_a_link_in_trouble_holds_up_what_passes_when_it_is_over(
    network: tuple[NetworkNamespace, Inside], trouble: str
) -> None:
    link, inside = network
    inside.send(1_000_000)
    assert inside.answer() == "echoed"
    answered = threading.Event()
    with getattr(link, trouble)():
        # Over a megabit per second it would take 16 s.
        inside.send(1_000_000)
        waiting = threading.Thread(target=lambda: inside.answer() and answered.set())
        waiting.start()
        assert not answered.wait(1.0)
    assert answered.wait(60.0)
    waiting.join()


@AS_ROOT
def test_a_client_in_a_network_of_its_own_reaches_nobody_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        network = NetworkNamespace(0)
        port = outside.getsockname()[1]
        command = network.command(sys.executable, "-c", ECHO, str(port))
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        network.close()
        network.listener.close()
    assert "ConnectionRefusedError" in refused.stderr


def test_what_the_machine_does_not_allow_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    equipment = Equipment()
    equipment.mount({"records": tmp_path / "records"})
    proxy = FaultProxy(1)
    equipment.connect(proxy, 2)
    assert equipment.left_out.keys() == {"disk full", "link"}
    assert (equipment.volumes, equipment.networks) == ({}, [])
    assert equipment.command(0, ["true"]) == ["true"]


def test_a_clock_is_off_for_as_long_as_it_is_told_to_be(tmp_path: Path) -> None:
    here, there = SkewedClock(tmp_path / "clock"), SkewedClock(tmp_path / "clock")
    with here.off_by(-3600.0):
        assert there.now() < time.time() - 3000
    assert abs(there.now() - time.time()) < 60
