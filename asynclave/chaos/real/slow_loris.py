"""Connections that say hello a byte at a time, to keep others from being served."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

_CONNECTIONS = 64
_PAUSE_SECONDS = 0.1


def drip(address: str, seconds: float) -> None:
    """Hold 64 connections open for a while, each in the middle of its TLS handshake.

    Parameters
    ----------
    address : str
        "host:port" of a TLS server.
    seconds : float
        How long.
    """
    host, _, port = address.rpartition(":")
    end, hello = time.monotonic() + seconds, _client_hello()
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
            for _ in range(_CONNECTIONS)
        ]
        for at in range(len(hello) - 1):
            if time.monotonic() > end:
                return
            for connection in connections:
                # The server may hang up, and does well to.
                with contextlib.suppress(OSError):
                    connection.send(hello[at : at + 1])
            time.sleep(_PAUSE_SECONDS)


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
