"""One life of a gateway: production's admission and journal, on a simulated disk and link."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from fl_protocol.codes import Code
from fl_protocol.proto.gateway_pb2_grpc import add_GatewayServicer_to_server
from fl_protocol.wire import CODE_METADATA, SERVICE
from fl_server.durable.journal import Journal
from fl_server.gateway.assembly import admission
from fl_server.gateway.audit import AuditLog
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.database import Database
from fl_server.gateway.enclave_link import EnclaveLink
from fl_server.gateway.registry import Registry
from fl_server.gateway.service import GatewayService
from fl_server.gateway.shared_memory import Refusals
from fl_server.gateway.submissions import Submissions
from fl_server.gateway.update_journal import UpdateJournal
from fl_sim.faults.chance import Chance, ChanceRng, Crash, Violation
from fl_sim.faults.confidential.actors import ProcessClock
from fl_sim.faults.confidential.enclave import HOP_KEY, Platform, SimulatedLauncher
from fl_sim.faults.disk import SimulatedDisk
from tee_sim.hop import HopSigner

_JOURNAL = Path("/gateway/journal")
_SEGMENT_BYTES, _LARGEST_JOURNAL = 20_000, 200_000

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Call:
    """A call as it is on the wire."""

    method: str
    requests: tuple[bytes, ...]
    metadata: tuple[tuple[str, str], ...]


class Refused(grpc.RpcError):  # type: ignore[misc]
    """What gRPC raises on the caller's side."""

    def __init__(
        self, status: grpc.StatusCode, details: str = "", trailing: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__()
        self._status, self._details, self._trailing = status, details, tuple(trailing)

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._status

    def details(self) -> str:
        """Return the sentence."""
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the trailing metadata."""
        return self._trailing

    @property
    def asynclave_code(self) -> str:
        """The gateway's own code, empty if it gave none."""
        return dict(self._trailing).get(CODE_METADATA, "")


class Gateway:
    """A gateway process, from its start to its death.

    Parameters
    ----------
    config : GatewayConfig
        Keys and registry, which are real files.
    platform : Platform
        Where its enclave is.
    disk : SimulatedDisk
        Holds its journal.
    chance : Chance
        Decides what goes wrong.
    clock : ProcessClock
        The gateway's.

    Raises
    ------
    Crash
        It dies while it starts.
    AsynclaveError
        It cannot be started now.
    """

    def __init__(
        self,
        config: GatewayConfig,
        platform: Platform,
        disk: SimulatedDisk,
        chance: Chance,
        clock: ProcessClock,
    ) -> None:
        rng = ChanceRng(chance)
        self._disk, self.dead = disk, False
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Inline())
        # A task that died with its machine has nobody who would ask for its result.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._database = Database(config.registry)
        self._audit = AuditLog(Path(os.devnull))
        launcher = SimulatedLauncher(platform, HopSigner(HOP_KEY, clock, rng), chance)
        self._link = EnclaveLink(launcher)
        admitted = admission(config, self._database, self._audit, HOP_KEY, clock, rng)
        self._gatekeeper = admitted.gatekeeper
        try:
            journal = Journal(_JOURNAL, disk, rng, segment_bytes=_SEGMENT_BYTES)
            if journal.size > _LARGEST_JOURNAL:
                raise Violation(f"I9: the gateway's journal has grown to {journal.size} bytes")
            submissions = Submissions(
                self._link,
                UpdateJournal(journal),
                Registry(self._database),
                Refusals(self._database, clock),
            )
            service = GatewayService(admitted.issuer, self._link, submissions, config.limits)
            self._handlers = _handlers_of(service)
            self._until_death(self._start(submissions))
        except BaseException:
            self.end()
            raise

    def serve(self, call: Call) -> list[bytes]:
        """Serve a call; returns the replies.

        Raises
        ------
        Refused
            It was refused, or the gateway died over it.
        """
        try:
            return self._until_death(self._served(call))
        except Crash:
            self.end()
            raise unavailable() from None

    def end(self) -> None:
        """Leave nothing of this life but what is on disk."""
        if self.dead:
            return
        self.dead = True
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            # Nothing of it runs any more, nor is it waited for.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._loop.close()
        self._database.close()
        self._audit.close()

    async def _start(self, submissions: Submissions) -> None:
        await self._link.attach()
        await submissions.finish_left_over(self._audit)

    async def _served(self, call: Call) -> list[bytes]:
        details = _Details(SERVICE + call.method, call.metadata)

        async def found(details: Any) -> Any:
            return self._handlers[call.method]

        handler = await self._gatekeeper.intercept_service(found, details)
        context = _Context(call.metadata)
        requests = _messages(call.requests, handler.request_deserializer)
        if handler.response_streaming:
            await handler.stream_stream(requests, context)
            replies = context.written
        else:
            replies = [await handler.stream_unary(requests, context)]
        return [handler.response_serializer(reply) for reply in replies]

    def _until_death(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run work to its end, or until the machine dies, maybe in another task."""
        death = self._loop.create_future()

        def died() -> None:
            if not death.done():
                death.set_result(None)

        async def race() -> _Result:
            task = self._loop.create_task(work)
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                if task.done():
                    task.exception()
                raise Crash
            return task.result()

        try:
            self._disk.step()
        except Crash:
            work.close()
            raise
        self._disk.died = died
        result = self._loop.run_until_complete(race())
        self._disk.step()
        return result


def unavailable() -> Refused:
    """Return what a caller sees of a gateway that is not there."""
    return Refused(grpc.StatusCode.UNAVAILABLE, "simulated")


class _Inline(ThreadPoolExecutor):
    """Runs what is submitted at once, in the thread that submits it."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **names: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **names))
        except BaseException as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class _Details:
    method: str
    invocation_metadata: tuple[tuple[str, str], ...]


class _Context:
    """What gRPC tells a handler of its call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata
        self.written: list[Any] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, part: Any) -> None:
        self.written.append(part)

    async def abort(
        self, status: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str]]
    ) -> None:
        raise Refused(status, details, trailing)


async def _messages(
    requests: Sequence[bytes], decode: Callable[[bytes], Any]
) -> AsyncIterator[Any]:
    for request in requests:
        yield decode(request)


class _Collector:
    """Stands for a server to which handlers are added."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self.handlers.update(handlers)


def _handlers_of(service: GatewayService) -> dict[str, Any]:
    collector = _Collector()
    add_GatewayServicer_to_server(service, collector)  # type: ignore[no-untyped-call]
    return collector.handlers


def is_authentication(code: str) -> bool:
    """Say whether a refusal came before the call's handler."""
    return code.startswith(("TOKEN_", "PROOF_")) or code == Code.OVERLOADED
