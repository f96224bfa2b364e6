"""A network of its own for a client, whose link can go down or be narrow."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from asynclave.chaos.real.commands import run
from tee_sim.syscalls import Libc

_CLONE_NEWNET = 0x40000000
_NARROW = ("tbf", "rate", "1mbit", "burst", "16kb", "latency", "400ms")


class NetworkNamespace:
    """Holds nothing but a loopback link, on which this process listens for the client in it.

    It lasts as long as this process or one in it.

    Parameters
    ----------
    port : int
        Port to listen on.

    Attributes
    ----------
    listener : socket
        The listening socket.

    Raises
    ------
    OSError
        It cannot be made, which takes root and iproute2.
    """

    def __init__(self, port: int) -> None:
        self.listener: socket.socket
        self._handle = -1
        self._error: OSError | None = None
        # Only the thread that asks for it moves into the namespace.
        thread = threading.Thread(target=self._make, args=(port,))
        thread.start()
        thread.join()
        if self._error is not None:
            self.close()
            raise self._error

    def command(self, *command: str) -> list[str]:
        """Return the command that runs another one inside."""
        return [_program("nsenter"), f"--net=/proc/{os.getpid()}/fd/{self._handle}", *command]

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Take the link down as long as the block lasts."""
        self._inside("ip", "link", "set", "lo", "down")
        try:
            yield
        finally:
            self._inside("ip", "link", "set", "lo", "up")

    @contextmanager
    def narrow(self) -> Iterator[None]:
        """Let one Mbit/s through as long as the block lasts, both ways together."""
        self._inside("tc", "qdisc", "add", "dev", "lo", "root", *_NARROW)
        try:
            yield
        finally:
            self._inside("tc", "qdisc", "del", "dev", "lo", "root")

    def close(self) -> None:
        """Let go of it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _make(self, port: int) -> None:
        try:
            Libc().call("unshare", _CLONE_NEWNET)
            self._handle = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            # As long as a link's frames are, or a narrow one would let none of them pass.
            self._inside("ip", "link", "set", "lo", "mtu", "1500", "up")
            self.listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            self._error = error

    def _inside(self, program: str, *arguments: str) -> None:
        run(*self.command(_program(program), *arguments))


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path
