"""Updates per second against a bare echo: ``python -m benchmarks.gateway``, one JSON object.

Ten clients upload at the same time, through a real gateway that syncs every update to its journal
into a real enclave, and merge. Then they send as many messages of the same size to a `grpc.aio`
server that echoes them over mutual TLS and does nothing else, and to one that answers with nothing.
All processes share the machine's cores; what clients send is made before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import trustme
from grpc import aio

from benchmarks import echo
from benchmarks.load import ServedRun
from benchmarks.processes import cpu_seconds
from fl_client.config import ClientConfig
from fl_client.outbox import Kept
from fl_client.sealing import Outgoing, Sealer
from fl_protocol.access import Credentials
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proof import make_proof
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import ACCEPTED, verify_receipt
from fl_protocol.signatures import Signed
from fl_protocol.wire import SERVICE, Wire
from fl_server.gateway.limits import LoadLimits
from fl_server.stack import LocalStack, StackSettings
from strategies.recipes.fedbuff import FedBuff
from strategies.update import FLOAT_BYTES
from tee_sim.node_config import connect

_CLIENTS = 10
_SIZES = {"0.2 MB": 50_890, "1 MB": 250_000, "4 MB": 1_000_000}
_METHOD = SERVICE + "SubmitUpdate"
_CLOCK, _RNG = SystemClock(), SystemRng()
_LIMITS = LoadLimits(rate=1e6, burst=1_000_000)


class Client:
    """Seals updates and signs their calls ahead of time."""

    def __init__(self, stack: LocalStack, name: str) -> None:
        config = ClientConfig.load(stack.client_config(name))
        connection = connect(config, _CLOCK, _RNG)
        self._identity = connection.store.load_or_create(_RNG)
        self._enrolment = connection.session.enrol()
        self._attested = connection.attestor.current()
        connection.session.close()
        self._wire = Wire(stack.address, stack.ca_pem, self._identity, _CLOCK, _RNG, 60.0)
        self._credentials = Credentials(
            self._wire, self._identity, None, _CLOCK, _RNG, connection.store
        )
        self._sealer = Sealer(config.federation, self._identity, _CLOCK, _RNG)

    def nonce(self) -> str | None:
        """Return the nonce that the gateway wants in proofs at present."""
        request = pb.EvidenceRequest(nonce=_RNG.bytes(32))
        self._wire.invoke("GetEvidence", request, lambda reply: reply, self._credentials.token())
        return self._wire._nonce

    def prepared(
        self, update: Any, nonce: str | None
    ) -> tuple[Outgoing, list[bytes], list[tuple[str, str]]]:
        """Return an update, the messages of its call, and the metadata."""
        kept = Kept(_RNG.bytes(16).hex(), update, {})
        outgoing = self._sealer.seal(kept, self._enrolment, self._attested)
        token = self._credentials.token()
        proof = make_proof(self._identity.proof_key, _METHOD, token, _CLOCK, _RNG, nonce)
        messages = [message.SerializeToString() for message in outgoing.messages()]
        return outgoing, messages, [("dpop", proof), ("authorization", f"DPoP {token}")]

    def checked(self, outgoing: Outgoing, reply: pb.SubmitReply) -> tuple[Signed, str]:
        """Return a receipt and its outcome; raises when it is not about this update."""
        signed = Signed(reply.payload, reply.signature)
        receipt = verify_receipt(signed, self._attested.receipt_key)
        outgoing.check(receipt)
        if receipt.outcome != ACCEPTED:
            raise RuntimeError(f"the benchmark's update was refused: {receipt.outcome}")
        return signed, receipt.outcome


def measure_all(sizes: Sequence[str] = tuple(_SIZES), versions: int = 40) -> dict[str, Any]:
    """Return the figures of each size."""
    return {name: measure(_SIZES[name], versions) for name in sizes}


def measure(num_params: int, versions: int) -> dict[str, float]:
    """Return rates, their ratios, and CPU milliseconds of the servers per update.

    Parameters
    ----------
    num_params : int
        Size of an update.
    versions : int
        Merges of ten updates each; the first is left out.
    """
    settings = StackSettings(FedBuff(buffer_size=_CLIENTS), k=_CLIENTS, limits=_LIMITS)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalStack(Path(folder), settings) as stack,
        _echo_server() as (bare, bare_pid),
    ):
        run = ServedRun(stack, num_params)
        clients = [Client(stack, f"client-{number}") for number in range(_CLIENTS)]
        pids = {"gateway": stack.gateway_pid, "enclave": stack.enclave_pid, "echo": bare_pid}
        work = _Turns(run, clients, stack, bare, bytes(FLOAT_BYTES * num_params), pids)
        asyncio.run(work.all(versions))
        run.close()
        return work.figures()


class _Turns:
    """Gateway, echo and sink in turns, ten calls each."""

    def __init__(
        self,
        run: ServedRun,
        clients: Sequence[Client],
        stack: LocalStack,
        bare: Path,
        message: bytes,
        pids: dict[str, int],
    ) -> None:
        self._run, self._clients, self._stack = run, clients, stack
        self._bare, self._message, self._pids = bare, message, pids
        self._seconds = defaultdict[str, list[float]](list)
        self._cpu = defaultdict[str, list[float]](list)

    async def all(self, versions: int) -> None:
        credentials = grpc.ssl_channel_credentials(self._stack.ca_pem)
        options = [("grpc.enable_http_proxy", 0)]
        async with (
            aio.secure_channel(self._stack.address, credentials, options) as gateway,
            echo.channel(self._bare) as bare,
        ):
            submit = gateway.stream_unary(_METHOD, None, pb.SubmitReply.FromString)
            unary = {name: bare.unary_unary(f"/echo/{name}") for name in ("echo", "sink")}
            for _ in range(versions + 1):
                update = self._run.update()
                nonce = self._clients[0].nonce()
                made = [client.prepared(update, nonce) for client in self._clients]
                calls = [
                    lambda parts=parts, metadata=metadata: submit(iter(parts), metadata=metadata)
                    for _, parts, metadata in made
                ]
                replies = await self._turn("gateway", calls)
                for name, call in unary.items():
                    await self._turn(name, [partial(call, self._message)] * _CLIENTS)
                self._run.hand_over(
                    [
                        client.checked(outgoing, reply)
                        for client, (outgoing, _, _), reply in zip(
                            self._clients, made, replies, strict=True
                        )
                    ]
                )

    async def _turn(self, name: str, calls: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
        before = {process: cpu_seconds(pid) for process, pid in self._pids.items()}
        started = time.perf_counter()
        replies = await asyncio.gather(*(_awaited(call) for call in calls))
        self._seconds[name].append(time.perf_counter() - started)
        for process, pid in self._pids.items():
            self._cpu[f"{process} in {name}"].append(cpu_seconds(pid) - before[process])
        return replies

    def figures(self) -> dict[str, float]:
        rates = {
            name: _CLIENTS / float(np.median(seconds[1:]))
            for name, seconds in self._seconds.items()
        }

        def cpu(process: str, turn: str) -> float:
            return 1e3 * float(np.mean(self._cpu[f"{process} in {turn}"][1:])) / _CLIENTS

        figures = {
            "accepted_over_echo": rates["gateway"] / rates["echo"],
            "accepted_over_sink": rates["gateway"] / rates["sink"],
            "accepted_per_second": rates["gateway"],
            "echo_per_second": rates["echo"],
            "sink_per_second": rates["sink"],
            "gateway_cpu_ms": cpu("gateway", "gateway"),
            "enclave_cpu_ms": cpu("enclave", "gateway"),
            "echo_cpu_ms": cpu("echo", "echo"),
            "sink_cpu_ms": cpu("echo", "sink"),
        }
        return {name: round(value, 3) for name, value in figures.items()}


async def _awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


@contextmanager
def _echo_server() -> Iterator[tuple[Path, int]]:
    with tempfile.TemporaryDirectory() as name:
        folder, authority = Path(name), trustme.CA()
        pair = authority.issue_cert("localhost")
        pair.private_key_pem.write_to_path(str(folder / "key.pem"))
        (folder / "chain.pem").write_bytes(b"".join(b.bytes() for b in pair.cert_chain_pems))
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.echo", name])
        try:
            while not (folder / "port").exists():
                if process.poll() is not None:
                    raise RuntimeError("the echo server did not start")
                time.sleep(0.02)
            yield folder, process.pid
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(_SIZES), choices=list(_SIZES))
    parser.add_argument("--versions", type=int, default=40)
    options = parser.parse_args()
    print(json.dumps(measure_all(options.sizes, options.versions), indent=2))


if __name__ == "__main__":
    main()
