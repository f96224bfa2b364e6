"""The gateway's asyncio side of the channel to the enclave."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, GatewayUnavailable, error_for
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.ports import Chunk
from fl_protocol.signatures import Signed
from tee_sim.async_stream import AsyncStream
from tee_sim.channel import (
    BODY_LENGTH,
    HEADER_LENGTH,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    ChannelClosed,
    checked_length,
    decode_header,
    encode_head,
)
from tee_sim.hop import NO_BODY, HopSigner

_MOST = 2**63 - 1


@dataclass(frozen=True)
class Opened:
    """An open run: its version and the enclave's epoch.

    ``signed`` is the enclave's record of the opening.
    """

    version: int
    epoch: int
    signed: Signed


@dataclass(frozen=True)
class Records:
    """A piece of the enclave's chain, and the signed head of the whole."""

    records: tuple[Signed, ...]
    head: Signed


class EnclaveClient:
    """Requests to one enclave, one at a time.

    A request that was interrupted or failed on the way leaves the frames out of step, so the
    client counts as `broken` from then on and the caller attaches again.
    """

    def __init__(self, stream: AsyncStream, signer: HopSigner) -> None:
        self._stream, self._signer = stream, signer
        self._turn = asyncio.Lock()
        self._out_of_step = False

    @property
    def broken(self) -> bool:
        """Whether the enclave has ended, or an exchange with it did not."""
        return self._out_of_step or self._stream.ended()

    @classmethod
    def over(cls, stream: socket.socket, signer: HopSigner) -> EnclaveClient:
        """Take over the socket that the launcher handed out; `signer` signs every request."""
        return cls(AsyncStream(stream), signer)

    async def open_run(
        self,
        run_id: str,
        layout_json: str,
        recipe_json: str,
        params: Sequence[Chunk],
        version: int = 0,
        *,
        join: bool = False,
    ) -> Opened:
        """Open a run, discarding the one before.

        Parameters
        ----------
        run_id : str
            Name of the run.
        layout_json : str
            `strategies.layout.Layout.to_json` of the model.
        recipe_json : str
            ``{"name", "options"}`` of the recipe asked for, as JSON.
        params : sequence of bytes-like
            First model, little-endian float32, in pieces.
        version : int
            Its version; above 0 when a run goes on after its enclave died.
        join : bool
            If the run is open and had this model, leave it as it is.

        Returns
        -------
        Opened
            Of a run that was open: its newest version, and the record of its opening.

        Raises
        ------
        RunRejected
            ``RUN_MANIFEST``, ``RUN_RECIPE``, ``LEAKY_RECIPE`` or ``RUN_REGRESSED``.
        GatewayUnavailable
            ``ENCLAVE_UNAVAILABLE``: the enclave is gone.
        """
        header = {
            "op": "OPEN_RUN",
            "run_id": run_id,
            "version": _framed(version),
            "layout_json": layout_json,
            "recipe_json": recipe_json,
            "join": join,
        }
        digest = hashlib.sha256()
        for chunk in params:
            digest.update(chunk)
        reply, _ = await self.request(header, params, digest.digest())
        return Opened(reply["version"], reply["epoch"], _signed(reply))

    async def submit(
        self,
        protected: bytes,
        wrap: bytes,
        tags: bytes,
        signature: bytes,
        membership: bytes,
        segments: Sequence[Chunk],
    ) -> Signed:
        """Hand in a sealed update whose body is the concatenated segments.

        Returns
        -------
        Signed
            The receipt; the stored one when this very update was accepted before.

        Raises
        ------
        EnvelopeRejected or UpdateRejected
            The update was refused and changed nothing.
        """
        parts = {
            "protected": protected,
            "wrap": wrap,
            "tags": tags,
            "signature": signature,
            "membership": membership,
        }
        header = {"op": "SUBMIT", **{name: b64url(part) for name, part in parts.items()}}
        reply, _ = await self.request(header, segments, hashlib.sha256(tags).digest())
        return _signed(reply)

    async def get_release(self, run_id: str, version: int) -> tuple[Signed, Chunk]:
        """Fetch a signed release record and its model (little-endian float32).

        Raises
        ------
        RunRejected
            ``RUN_UNKNOWN`` or ``RELEASE_NOT_READY``.
        """
        header = {"op": "GET_RELEASE", "run_id": run_id, "version": _framed(version)}
        reply, body = await self.request(header)
        return _signed(reply), body

    async def get_records(self, from_seq: int) -> Records:
        """Fetch records of the chain from a number on, up to about a thousand of those kept."""
        reply, _ = await self.request({"op": "GET_RECORDS", "from_seq": _framed(from_seq)})
        return Records(tuple(map(_signed, reply["records"])), _signed(reply["head"]))

    async def update_status(
        self, run_id: str, client_id: str, update_id: str, nonce: bytes
    ) -> tuple[Signed, Signed | None]:
        """Ask what became of a client's update.

        Returns
        -------
        tuple
            The signed status, and the receipt if this enclave accepted the update.
        """
        header = {
            "op": "UPDATE_STATUS",
            "run_id": run_id,
            "client_id": client_id,
            "update_id": update_id,
            "nonce": nonce.hex(),
        }
        reply, _ = await self.request(header)
        receipt = reply.get("receipt")
        return _signed(reply), None if receipt is None else _signed(receipt)

    async def status(self) -> dict[str, Any]:
        """Return the epoch, and run id, version, updates pending and bytes of the open run."""
        reply, _ = await self.request({"op": "STATUS"})
        return reply

    async def request(
        self, header: dict[str, Any], body: Sequence[Chunk] = (), digest: bytes = NO_BODY
    ) -> tuple[dict[str, Any], Chunk]:
        """Send one frame and return the reply's header and body.

        ``digest`` is the SHA-256 of the body, or of what stands for it; see `tee_sim.hop`.

        Raises
        ------
        AsynclaveError
            The typed refusal in the reply, ``TOO_LARGE`` for a header that fits no frame, or
            ``ENCLAVE_UNAVAILABLE``.
        """
        async with self._turn:
            if self.broken:
                raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE)
            # Before the first byte is sent: a caller's odd value must not cost the channel.
            head = _encoded(header, self._signer, digest, sum(len(chunk) for chunk in body))
            self._out_of_step = True
            try:
                reply, content = await self._exchange(head, body)
            except (OSError, EOFError, ChannelClosed) as error:
                raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE) from error
            self._out_of_step = False
        if not reply.get("ok"):
            raise error_for(reply["code"], reply["sentence"])
        return reply, content

    def close(self) -> None:
        """Close the socket."""
        self._out_of_step = True
        self._stream.close()

    async def _exchange(self, head: bytes, body: Sequence[Chunk]) -> tuple[dict[str, Any], Chunk]:
        await self._stream.send((head, *body))
        reply = await self._read(HEADER_LENGTH.size, MAX_HEADER_BYTES)
        return decode_header(bytes(reply)), await self._read(BODY_LENGTH.size, MAX_BODY_BYTES)

    async def _read(self, length_bytes: int, bound: int) -> Chunk:
        length = int.from_bytes(await self._stream.read(length_bytes), "big")
        return await self._stream.read(checked_length(length, bound))


def _encoded(header: dict[str, Any], signer: HopSigner, digest: bytes, body_length: int) -> bytes:
    try:
        return encode_head(signer.sign(header, digest), body_length)
    except CanonicalError as error:
        raise error_for(Code.TOO_LARGE, f"The request does not fit a frame: {error}.") from error


def _framed(number: int) -> int:
    """Return a number of 64 bits as a frame can hold it: no version or record comes near the bound.

    So the enclave answers a number that fits no frame as it does any other that is too great.
    """
    return min(number, _MOST)


def _signed(reply: dict[str, Any]) -> Signed:
    return Signed(b64url_decode(reply["payload"]), b64url_decode(reply["signature"]))
