"""From a revocation to the first refusal: ``python -m benchmarks.revocation``, one JSON object.

Two gateways share a registry. A node calls each of them without a pause; somebody else revokes the
node in the registry. Measured is, for each gateway, the time from when the revocation was written
to when the first call that is refused has its answer, and beside it a call that is served.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fl_client.config import ClientConfig
from fl_protocol.codes import Code, TokenRejected
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.stack import LocalStack, StackSettings
from strategies.recipes.fedbuff import FedBuff
from tee_sim.node_config import Connection, connect

_ROUNDS = 20
_NONCE = bytes(32)


def measure(rounds: int = _ROUNDS) -> dict[str, float]:
    """Return milliseconds over so many revoked nodes and both gateways."""
    refused: list[float] = []
    served: list[float] = []
    settings = StackSettings(recipe=FedBuff(buffer_size=2), k=2, gateways=2)
    with TemporaryDirectory() as folder, LocalStack(Path(folder), settings) as stack:
        for number in range(rounds):
            callers = [
                _Caller(stack, f"node-{number}", gateway.address) for gateway in stack.gateways
            ]
            client_id = callers[0].client_id
            for caller in callers:
                caller.start()
            time.sleep(0.2)
            stack.revoke("client", client_id)
            written = time.perf_counter()
            for caller in callers:
                caller.join()
                refused.append(caller.refused_at - written)
                served += caller.served
    return {
        "median_ms": _milliseconds(statistics.median(refused)),
        "largest_ms": _milliseconds(max(refused)),
        "call_that_is_served_median_ms": _milliseconds(statistics.median(served)),
        "revocations": len(refused),
    }


class _Caller(threading.Thread):
    """A node that calls a gateway until it is refused."""

    def __init__(self, stack: LocalStack, name: str, address: str) -> None:
        super().__init__(daemon=True)
        bundle = replace(ClientConfig.load(stack.client_config(name)), gateway=address)
        self._node: Connection = connect(bundle, SystemClock(), SystemRng())
        self.client_id = self._node.session.enrol().client_id
        self.refused_at = 0.0
        self.served: list[float] = []

    def run(self) -> None:
        request = pb.EvidenceRequest(nonce=_NONCE)
        while True:
            began = time.perf_counter()
            try:
                self._node.session.call("GetEvidence", request)
            except TokenRejected as error:
                assert error.code == Code.TOKEN_REVOKED
                self.refused_at = time.perf_counter()
                return
            self.served.append(time.perf_counter() - began)


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 1)


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=2)
    print()
