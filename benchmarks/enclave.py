"""What an update costs the enclave over the floor: ``python -m benchmarks.enclave``, as JSON.

*Inside* is everything the enclave does with an update that lies in its memory: check the request,
the signatures and the header, open, screen, keep, answer with a signed receipt, and with every
tenth update merge and sign the release. *With the hand-over* is a real enclave process, from the
gateway's side of its socket until the receipt is there. The floor is AES-256-GCM of the same bytes
into a reused row, and one add, and is taken before every update of either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.updates import BUFFER, RUN, Federation, Floor, Member, parts_of, tags_digest
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.envelope import SealedUpdate
from fl_protocol.ports import LocalDisk, SystemClock, SystemRng
from fl_protocol.receipts import verify_release
from fl_protocol.signatures import Signed
from tee_sim import image
from tee_sim.allocator import keep_freed_memory
from tee_sim.channel import Body, Request
from tee_sim.client import EnclaveClient
from tee_sim.enclave.memory import KEY_BYTES, ReleaseMemory
from tee_sim.enclave.service import EnclaveService, Keys
from tee_sim.hop import HopSigner, HopVerifier
from tee_sim.launch import BootOptions, EnclaveProcess
from tee_sim.sealed_state import SealedState

# Merges measured by megabytes of an update; one more warms up.
_MERGES = {1: 12, 10: 6, 100: 2}
_MEGABYTE = 250_000
KEY = bytes(32)
_CLOCK, _RNG = SystemClock(), SystemRng()


def measure_all(sizes: Sequence[int] = tuple(_MERGES)) -> dict[str, dict[str, float]]:
    """Return the figures of each size in megabytes."""
    return {f"{size} MB": measure(size, _MERGES.get(size, 2)) for size in sizes}


def measure(megabytes: int, merges: int) -> dict[str, float]:
    """Return the ratios of one size, and the milliseconds they come from.

    Parameters
    ----------
    megabytes : int
        Size of an update, 250,000 float32 each.
    merges : int
        Merges of ten updates each; the first is left out.
    """
    # As the enclave does.
    keep_freed_memory()
    federation = Federation(megabytes * _MEGABYTE)
    with enclave(federation) as process, asyncio.Runner() as runner:
        inside, outside = _Inside(federation), Outside(federation, process, runner)
        floor, seconds = Floor(federation.delta), defaultdict[str, list[float]](list)
        floor.work()
        for _ in range(merges + 1):
            for name, side in (("inside", inside), ("with_hand_over", outside)):
                for member in federation.members:
                    seconds["floor"].append(_seconds(floor.work))
                    seconds[name].append(side.hand_in(member))
            inside.publish()
            outside.publish()
        return _figures({name: _by_merge(values) for name, values in seconds.items()})


def _figures(seconds: dict[str, np.ndarray]) -> dict[str, float]:
    floor = float(np.median(seconds["floor"]))
    figures = {"floor_ms": 1e3 * floor}
    for name in ("inside", "with_hand_over"):
        without = float(np.median(seconds[name][:, :-1]))
        whole = float(np.median(seconds[name].mean(axis=1)))
        figures |= {
            f"{name}_ms": 1e3 * without,
            f"{name}_merging_ms": 1e3 * whole,
            f"{name}_over_floor": without / floor,
            f"{name}_merging_over_floor": whole / floor,
        }
    return {name: round(value, 3) for name, value in figures.items()}


def _by_merge(seconds: Sequence[float]) -> np.ndarray:
    """Return one row per merge, the first left out; the last column is the update that merged."""
    return np.array(seconds).reshape(-1, BUFFER)[1:]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class _MemoryBody(Body):
    """A body that is in memory already."""

    def __init__(self, chunks: Sequence[memoryview]) -> None:
        self._chunks = iter(chunks)
        self.remaining = sum(len(chunk) for chunk in chunks)

    def read(self, scratch: memoryview) -> memoryview:
        self.remaining -= len(scratch)
        return next(self._chunks)

    def read_into(self, target: memoryview) -> None:
        target[:] = self.read(target)


class _Side:
    """An open run, whichever way requests get to its enclave."""

    def __init__(self, federation: Federation, hpke_key: bytes, receipt_key: bytes) -> None:
        self._federation = federation
        self._hpke_key, self._receipt_key = hpke_key, receipt_key
        self._version, self._digest = 0, federation.initial_digest()

    def _sealed(self, member: Member) -> SealedUpdate:
        return self._federation.sealed(member, self._hpke_key, self._version, self._digest)

    def _published(self, signed: Signed) -> None:
        release = verify_release(signed, self._receipt_key)
        self._version, self._digest = release.version, release.model_digest


class _Inside(_Side):
    """The enclave's service in this process."""

    def __init__(self, federation: Federation) -> None:
        keys = Keys()
        public = keys.public()
        super().__init__(federation, public.hpke, public.receipt)
        memory = ReleaseMemory(_Nowhere(), bytes(KEY_BYTES), _RNG)
        hop = HopVerifier(KEY, _CLOCK)
        self._signer = HopSigner(KEY, _CLOCK, _RNG)
        self._service = EnclaveService(1, federation.policy, keys, _CLOCK, hop, memory)
        body = federation.zeros.data.cast("B")
        self._ask(federation.opening(), [body], bytes.fromhex(federation.initial_digest()))

    def hand_in(self, member: Member) -> float:
        sealed = self._sealed(member)
        parts = {name: b64url(part) for name, part in parts_of(sealed, member).items()}
        request = self._signer.sign({"op": "SUBMIT", **parts}, tags_digest(sealed))
        return _seconds(lambda: self._answer(request, sealed.segments))

    def publish(self) -> None:
        request = {"op": "GET_RELEASE", "run_id": RUN, "version": self._version + 1}
        reply = self._ask(request)
        self._published(Signed(b64url_decode(reply["payload"]), b64url_decode(reply["signature"])))

    def _ask(
        self, request: dict[str, Any], body: Sequence[memoryview] = (), digest: bytes | None = None
    ) -> dict[str, Any]:
        signed = (
            self._signer.sign(request) if digest is None else self._signer.sign(request, digest)
        )
        return self._answer(signed, body)

    def _answer(self, request: dict[str, Any], body: Sequence[memoryview]) -> dict[str, Any]:
        return _checked(self._service.answer(Request(request, _MemoryBody(body))).header)


class Outside(_Side):
    """An open run in a real enclave process, behind the gateway's client."""

    def __init__(
        self, federation: Federation, process: EnclaveProcess, runner: asyncio.Runner
    ) -> None:
        keys = process.facts.keys
        super().__init__(federation, keys.hpke, keys.receipt)
        self._runner = runner
        signer = HopSigner(KEY, _CLOCK, _RNG)
        self._client = EnclaveClient.over(process.hand_over(), signer)
        opening = federation.opening()
        runner.run(
            self._client.open_run(
                opening["run_id"],
                opening["layout_json"],
                opening["recipe_json"],
                [federation.zeros.data.cast("B")],
            )
        )

    def hand_in(self, member: Member) -> float:
        """Hand one more update in; return the seconds that it took."""
        sealed = self._sealed(member)
        parts = parts_of(sealed, member)
        body = list(map(bytes, sealed.segments))

        async def submitted() -> float:
            started = time.perf_counter()
            await self._client.submit(**parts, segments=body)
            return time.perf_counter() - started

        return self._runner.run(submitted())

    def publish(self) -> None:
        """Fetch what was merged; updates are of this model from now on."""
        signed, _ = self._runner.run(self._client.get_release(RUN, self._version + 1))
        self._published(signed)


class _Nowhere:
    """A vault that forgets."""

    def load(self, name: str) -> tuple[int, bytes]:
        return 0, b""

    def store(self, name: str, sealed: bytes | bytearray) -> None:
        return None


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    if not reply["ok"]:
        raise RuntimeError(f"the benchmark's request was refused: {reply['code']}")
    return reply


@contextmanager
def enclave(federation: Federation) -> Iterator[EnclaveProcess]:
    """Run an enclave of a federation's policy."""
    with TemporaryDirectory() as folder:
        handle = image.build().seal()
        process = EnclaveProcess.start(
            handle,
            image.measurement_of(handle),
            image.dependency_paths(),
            1,
            federation.policy,
            BootOptions(None, KEY),
            SealedState(Path(folder), LocalDisk(), _RNG),
        )
        try:
            yield process
        finally:
            process.end()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=list(_MERGES))
    print(json.dumps(measure_all(parser.parse_args().megabytes), indent=2))


if __name__ == "__main__":
    main()
