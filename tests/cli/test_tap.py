import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from asynclave.run.tap import TapConfig


def echo_reversed(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(1 << 16):
            connection.sendall(data[::-1])


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_forwards_both_ways_and_records_every_byte(tmp_path: Path, size: int) -> None:
    sent = os.urandom(size)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=echo_reversed, args=(server,), daemon=True).start()
        config = tmp_path / "tap.json"
        target = f"127.0.0.1:{server.getsockname()[1]}"
        TapConfig(target, str(tmp_path), os.getpid()).save(config)
        tap = subprocess.Popen([sys.executable, "-m", "asynclave.run.tap", str(config)])
        try:
            received = exchange(port_of(tmp_path), sent)
        finally:
            tap.terminate()
            tap.wait()

    assert len(received) == size
    assert (tmp_path / "up.bin").read_bytes() == sent
    assert (tmp_path / "down.bin").read_bytes() == received


def port_of(folder: Path) -> int:
    deadline = time.monotonic() + 20
    while not (folder / "port").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int((folder / "port").read_text())


def exchange(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as client:
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        received = b""
        while len(received) < len(sent):
            received += client.recv(1 << 16)
    return received
