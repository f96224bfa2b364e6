"""The launcher's own socket: one packet asks, one packet answers (SOCK_SEQPACKET).

``{"op": "ATTACH", "replace": epoch}`` is answered with the enclave's epoch and process id and,
beside the packet, a socket to it, or to a fresh one if it has the epoch named; ``{"op": "EVIDENCE",
"nonce": hex}`` with signed evidence. Several may be attached at once, one for each connection to
this socket. The enclave outlives all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import AsynclaveError, Code, ConfigInvalid, GatewayUnavailable, error_for
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.storage import stored
from tee_sim.client import EnclaveClient
from tee_sim.evidence import MAX_EVIDENCE_BYTES, check_nonce
from tee_sim.hop import HopSigner, HopVerifier
from tee_sim.launch import EnclaveProcess

_PACKET_BYTES = 2 * MAX_EVIDENCE_BYTES
_BACKLOG = 16


class EnclaveSource(Protocol):
    """What the control server asks: the launcher."""

    def attach(self, *, replace: int = 0) -> EnclaveProcess:
        """Return the running enclave, or a fresh one if it has the epoch to be replaced."""
        ...

    def evidence(self, nonce: bytes) -> bytes:
        """Return evidence about the present enclave."""
        ...


class ControlServer:
    """Serves a launcher on a Unix socket that only its owner can open.

    An attachment ends with the connection it was asked for on, or when that asks for another.
    Every request must be signed; see `tee_sim.hop`.
    """

    def __init__(self, path: Path, source: EnclaveSource, verifier: HopVerifier) -> None:
        self._path, self._source, self._verifier = path, source, verifier
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._tasks: set[asyncio.Task[None]] = set()
        self._attached: dict[socket.socket, EnclaveProcess] = {}

    async def __aenter__(self) -> Self:
        mask = os.umask(0o177)
        try:
            with stored(str(self._path)):
                self._path.unlink(missing_ok=True)
                self._listener.bind(str(self._path))
        finally:
            os.umask(mask)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._spawn(self._accept())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            connection.setblocking(False)
            self._spawn(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            with connection, contextlib.suppress(OSError):
                while packet := await loop.sock_recv(connection, _PACKET_BYTES):
                    self._answer(connection, packet)
        finally:
            if enclave := self._attached.pop(connection, None):
                enclave.cut_off(connection)

    def _answer(self, connection: socket.socket, packet: bytes) -> None:
        try:
            request = canonical.decode_object(packet, _PACKET_BYTES)
            self._verifier.verify(request)
            if request.get("op") == "ATTACH":
                self._attach(connection, request["replace"])
                return
            if request.get("op") != "EVIDENCE":
                raise ConfigInvalid(Code.CONFIG_INVALID, "The launcher has no such operation.")
            evidence = self._source.evidence(bytes.fromhex(request["nonce"]))
            reply: dict[str, Any] = {"ok": True, "evidence": b64url(evidence)}
        except AsynclaveError as error:
            reply = {"ok": False, "code": error.code, "sentence": error.sentence}
        except (CanonicalError, KeyError, TypeError, ValueError):
            invalid = ConfigInvalid(Code.CONFIG_INVALID, "The launcher was asked unreadably.")
            reply = {"ok": False, "code": invalid.code, "sentence": invalid.sentence}
        connection.send(canonical.encode(reply))

    def _attach(self, connection: socket.socket, replace: int) -> None:
        if type(replace) is not int:
            raise TypeError("no epoch")
        enclave = self._source.attach(replace=replace)
        self._attached[connection] = enclave
        reply = {"ok": True, "epoch": enclave.facts.epoch, "pid": enclave.pid}
        with enclave.hand_over(connection) as stream:
            socket.send_fds(connection, [canonical.encode(reply)], [stream.fileno()])


@dataclass(frozen=True)
class Attachment:
    """The enclave one is attached to."""

    client: EnclaveClient
    epoch: int
    pid: int


class LauncherClient:
    """A gateway's connection to the launcher.

    Parameters
    ----------
    path : Path
        The launcher's socket.
    signer : HopSigner
        Signs every request, those to the enclave as well.
    """

    def __init__(self, path: Path, signer: HopSigner) -> None:
        self._path, self._signer = path, signer
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()

    async def attach(self, *, replace: int = 0) -> Attachment:
        """Get a socket to the enclave; one that this client had before is cut off.

        Parameters
        ----------
        replace : int
            Epoch of the enclave that is to be killed, because it does not answer, if it still
            runs: somebody else may have had it replaced already. There is no epoch 0.

        Raises
        ------
        GatewayUnavailable
            ``ENCLAVE_UNAVAILABLE``: no launcher, or it could not start an enclave.
        """
        reply, descriptors = await self._ask({"op": "ATTACH", "replace": replace})
        if len(descriptors) != 1:
            raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE)
        client = EnclaveClient.over(socket.socket(fileno=descriptors[0]), self._signer)
        return Attachment(client, reply["epoch"], reply["pid"])

    async def evidence(self, nonce: bytes) -> bytes:
        """Have the platform answer a challenge of 16 to 64 bytes.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_NONCE`` for a challenge of another length.
        GatewayUnavailable
            ``ENCLAVE_UNAVAILABLE``.
        """
        # Not left to the platform: a packet the socket refuses would cost the connection.
        check_nonce(nonce)
        reply, _ = await self._ask({"op": "EVIDENCE", "nonce": nonce.hex()})
        return b64url_decode(reply["evidence"])

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        async with self._turn:
            try:
                reply, descriptors = await self._exchange(
                    canonical.encode(self._signer.sign(request))
                )
            except (OSError, EOFError, CanonicalError) as error:
                self.close()
                raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE) from error
            except asyncio.CancelledError:
                # The answer may still come and would be taken for the next one's.
                self.close()
                raise
        if not reply["ok"]:
            raise error_for(reply["code"], reply["sentence"])
        return reply, descriptors

    async def _exchange(self, packet: bytes) -> tuple[dict[str, Any], list[int]]:
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket.setblocking(False)
            await loop.sock_connect(self._socket, str(self._path))
        await loop.sock_sendall(self._socket, packet)
        await _readable(self._socket)
        data, descriptors, _, _ = socket.recv_fds(self._socket, _PACKET_BYTES, 1)
        if not data:
            raise EOFError("the launcher is gone")
        return canonical.decode_object(data, _PACKET_BYTES), descriptors


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    # Level-triggered: it may fire again before the waiting task has run.
    loop.add_reader(connection, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
