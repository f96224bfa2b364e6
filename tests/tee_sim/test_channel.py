"""Frames: bounded, exact, and out of step never."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fl_protocol.codes import AsynclaveError, Code, GatewayUnavailable, RunRejected
from fl_protocol.ports import SystemClock, SystemRng
from tee_sim.channel import (
    BODY_LENGTH,
    HEADER_LENGTH,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    Channel,
    ChannelClosed,
    encode_head,
)
from tee_sim.client import EnclaveClient
from tee_sim.hop import HopSigner
from tests.support.enclave import HOP_KEY

SIGNER = HopSigner(HOP_KEY, SystemClock(), SystemRng())
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def test_carries_header_and_body(pair: Pair) -> None:
    Channel(pair[0]).send({"op": "X", "n": 1}, b"body")
    request = Channel(pair[1]).receive()
    content = bytearray(request.body.remaining)
    request.body.read_into(memoryview(content))
    assert (request.header, bytes(content)) == ({"op": "X", "n": 1}, b"body")


def test_discarding_a_body_leads_to_the_next_frame(pair: Pair) -> None:
    sender, receiver = Channel(pair[0]), Channel(pair[1])
    writer = threading.Thread(target=lambda: sender.send({"n": 1}, b"x" * 300_000))
    writer.start()
    receiver.receive().body.discard()
    writer.join()
    sender.send({"n": 2})
    assert receiver.receive().header == {"n": 2}


@pytest.mark.parametrize("whole", [0, 30], ids=["header", "body"])
def test_a_peer_that_trickles_is_given_up(pair: Pair, whole: int) -> None:
    frame = encode_head({"op": "X"}, 5000) + bytes(5000)
    given_up, sent = threading.Event(), whole

    def trickle() -> None:
        nonlocal sent
        pair[0].sendall(frame[:whole])
        while sent < len(frame) and not given_up.wait(0.01):
            pair[0].sendall(frame[sent : sent + 1])
            sent += 1

    # As the launcher sets it; what has come by then is not waited for any longer.
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 20_000))
    peer = threading.Thread(target=trickle)
    peer.start()
    with pytest.raises(ChannelClosed):
        Channel(pair[1], patience=0.2).receive().body.discard()
    given_up.set()
    peer.join()
    assert sent < len(frame)


def test_a_peer_that_reads_a_byte_at_a_time_is_given_up(pair: Pair) -> None:
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 20_000))
    given_up = threading.Event()

    def sip() -> None:
        while not given_up.wait(0.005):
            pair[1].recv(1000)

    peer = threading.Thread(target=sip)
    peer.start()
    with pytest.raises(ChannelClosed):
        Channel(pair[0], patience=0.05).send({}, bytes(64 << 20))
    given_up.set()
    peer.join()


def test_refuses_to_read_past_the_body(pair: Pair) -> None:
    Channel(pair[0]).send({}, b"abc")
    body = Channel(pair[1]).receive().body
    with pytest.raises(ValueError, match="shorter"):
        body.read_into(memoryview(bytearray(4)))


@pytest.mark.parametrize(
    "frame",
    [
        HEADER_LENGTH.pack(MAX_HEADER_BYTES + 1),
        HEADER_LENGTH.pack(2) + b"{}" + BODY_LENGTH.pack(MAX_BODY_BYTES + 1),
        HEADER_LENGTH.pack(2) + b"[]" + BODY_LENGTH.pack(0),
        HEADER_LENGTH.pack(3) + b"{ }" + BODY_LENGTH.pack(0),
        HEADER_LENGTH.pack(8) + b'{"a"',
        b"\0\0",
        b"",
    ],
)
def test_closes_on_what_is_no_frame(pair: Pair, frame: bytes) -> None:
    pair[0].sendall(frame)
    pair[0].close()
    with pytest.raises(ChannelClosed):
        Channel(pair[1]).receive()


async def test_client_raises_the_typed_refusal(pair: Pair) -> None:
    client = EnclaveClient.over(pair[0], SIGNER)
    refusal = {"ok": False, "code": "RUN_UNKNOWN", "sentence": "Open it first."}
    pair[1].sendall(encode_head(refusal, 0))
    with pytest.raises(RunRejected) as caught:
        await client.status()
    assert str(caught.value) == "RUN_UNKNOWN: Open it first."
    assert not client.broken


@pytest.mark.parametrize("value", [2**64 - 1, "\x01" * (2 << 20)], ids=["integer", "text"])
async def test_request_that_fits_no_frame_costs_nobody_the_enclave(
    pair: Pair, value: object
) -> None:
    client = EnclaveClient.over(pair[0], SIGNER)
    with pytest.raises(AsynclaveError, match="TOO_LARGE"):
        await client.request({"op": "GET_RELEASE", "run_id": value})
    pair[1].sendall(encode_head({"ok": True}, 0))
    assert await client.status() == {"ok": True}


async def test_client_of_a_dead_enclave_says_unavailable(pair: Pair) -> None:
    client = EnclaveClient.over(pair[0], SIGNER)
    pair[1].close()
    for _ in range(2):
        with pytest.raises(GatewayUnavailable) as caught:
            await client.status()
        assert caught.value.code == Code.ENCLAVE_UNAVAILABLE
    assert client.broken


async def test_interrupted_request_breaks_the_client(pair: Pair) -> None:
    """Its reply may still come and must not be taken for the next request's."""
    client = EnclaveClient.over(pair[0], SIGNER)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.status(), 0.05)
    pair[1].sendall(encode_head({"ok": True}, 0))
    with pytest.raises(GatewayUnavailable):
        await client.status()


async def test_requests_wait_for_their_turn(pair: Pair) -> None:
    def echo() -> None:
        channel = Channel(pair[1])
        for _ in range(20):
            request = channel.receive()
            content = bytearray(request.body.remaining)
            request.body.read_into(memoryview(content))
            channel.send({"ok": True, **request.header}, bytes(content))

    thread = threading.Thread(target=echo)
    thread.start()
    client = EnclaveClient.over(pair[0], SIGNER)

    async def ask(number: int) -> tuple[dict[str, Any], bytes]:
        return await client.request({"n": number}, [b"a" * number, b"b" * 100_000])

    replies = await asyncio.gather(*(ask(number) for number in range(20)))
    thread.join()
    assert [header["n"] for header, _ in replies] == list(range(20))
    assert all(len(body) == number + 100_000 for number, (_, body) in enumerate(replies))
