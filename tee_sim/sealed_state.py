"""The platform's part in sealed state: a key for each image, and a place for opaque bytes.

The enclave has a second socket, to the platform alone: ``{"op": "LOAD", "name": hex}`` is answered
with the counter and the bytes stored under a name, ``{"op": "STORE", "name": hex}`` stores the
body and counts up. Nobody but the enclave can read or make the bytes. That they are the newest is
the platform's word: a `FileCounter` does not protect against whoever can write its folder.
"""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import Disk, Rng
from tee_sim.channel import Channel, ChannelClosed, Request
from tee_sim.counter import FileCounter
from tee_sim.enclave.memory import KEY_BYTES, MAX_SEALED_BYTES

_NAME = re.compile("[0-9a-f]{64}")
# Of sealing: nonce and tag.
_OVERHEAD_BYTES = 28


class SealedState:
    """A platform's sealing root and the sealed bytes of its enclaves, in one folder.

    Parameters
    ----------
    folder : Path
        Created when first written; readable by the platform alone.
    disk, rng : Disk, Rng
        Where it is; source of the sealing root.
    """

    def __init__(self, folder: Path, disk: Disk, rng: Rng) -> None:
        self._folder, self._disk, self._rng = folder, disk, rng

    def key_for(self, measurement: str) -> bytes:
        """Return the sealing key of an image, 32 bytes: no other image can open its state.

        Raises
        ------
        ConfigInvalid
            The sealing root is damaged: what is left of it others might guess.
        """
        path = self._folder / "root.key"
        if not self._disk.exists(path):
            self._disk.write_atomic(path, self._rng.bytes(KEY_BYTES))
        root = self._disk.read(path)
        if len(root) != KEY_BYTES:
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                f"{path} is damaged: it has {len(root)} bytes, not {KEY_BYTES}. Restore it; "
                "without it no run that was sealed under it goes on.",
            )
        info = b"asynclave/sealing/v1\0" + bytes.fromhex(measurement)
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(root)

    def load(self, name: str) -> tuple[int, bytes]:
        """Return how often a name was stored and its latest bytes, 0 and none at first."""
        path = self._folder / f"{name}.sealed"
        sealed = self._disk.read(path) if self._disk.exists(path) else b""
        return self._counter(name).value(), sealed

    def store(self, name: str, sealed: bytes) -> None:
        """Keep the bytes durably, then count."""
        self._disk.write_atomic(self._folder / f"{name}.sealed", sealed)
        self._counter(name).next()

    def serve(self, stream: socket.socket) -> threading.Thread:
        """Answer an enclave on its second socket until it has ended, on a thread of its own."""
        thread = threading.Thread(target=self._serve, args=(stream,), name="sealed-state")
        thread.daemon = True
        thread.start()
        return thread

    def _serve(self, stream: socket.socket) -> None:
        channel = Channel(stream)
        with stream:
            try:
                while True:
                    self._answer(channel, channel.receive())
            except ChannelClosed:
                return

    def _answer(self, channel: Channel, request: Request) -> None:
        operation, name = request.header.get("op"), request.header.get("name")
        known = operation in ("LOAD", "STORE") and type(name) is str and _NAME.fullmatch(name)
        if not known or request.body.remaining > MAX_SEALED_BYTES + _OVERHEAD_BYTES:
            raise ChannelClosed("the enclave asked for something else")
        assert isinstance(name, str)
        body = bytearray(request.body.remaining)
        request.body.read_into(memoryview(body))
        try:
            counter, sealed = 0, b""
            if operation == "STORE":
                self.store(name, bytes(body))
            else:
                counter, sealed = self.load(name)
        except (OSError, ConfigInvalid):
            channel.send({"ok": False})
        else:
            channel.send({"ok": True, "counter": counter}, sealed)

    def _counter(self, name: str) -> FileCounter:
        return FileCounter(self._folder / f"{name}.counter", self._disk)
