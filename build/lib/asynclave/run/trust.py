"""The trust path of a run: gateway and enclave as real processes, a wire that records."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from flwr.app import UserConfig
from flwr.clientapp.typing import Mod

from asynclave.canary import search_files, search_memory
from asynclave.config import RunConfig
from asynclave.run.planted import canary_of
from asynclave.run.record import RunDirectory
from asynclave.run.tap import TapConfig
from fl_client.config import NODE_CONFIG_KEY, ClientConfig
from fl_client.mods import sealed_uploads
from fl_protocol.ports import SystemClock
from fl_server.stack import LocalStack, StackSettings
from fl_server.stack.processes import Child
from strategies.recipe import Recipe

_TAP_PATIENCE = 20.0


@dataclass(frozen=True)
class CanaryVerdict:
    """Where the planted tensor was looked for, and where it was found.

    Attributes
    ----------
    found_in : tuple of str
        Names of the places that hold it; empty when nothing leaked.
    not_searched : tuple of str
        Processes whose memory this user may not read.
    num_files : int
        Files searched.
    wire_bytes : int
        Bytes that crossed the gateway's socket, all searched.
    control : bool
        Whether the same search finds it in this process, which trained it: it must.
    in_enclave : bool or None
        Whether the search finds it in the enclave, where it belongs; None if this user may not
        read the enclave's memory. Root may: the TEE is simulated.
    """

    found_in: tuple[str, ...]
    not_searched: tuple[str, ...]
    num_files: int
    wire_bytes: int
    control: bool
    in_enclave: bool | None

    @property
    def passed(self) -> bool:
        """Whether the tensor leaked nowhere and the search proved able to find it."""
        return self.control and not self.found_in


class TrustPath:
    """Starts the stack, gives every client its bundle, and searches for the canary.

    Parameters
    ----------
    config : RunConfig
        The run's configuration.
    recipe : Recipe
        The recipe that the enclave is bound to.
    directory : RunDirectory
        Receives logs. Its state folder holds keys and sealed state while the run is not finished;
        a stack that was begun there goes on.
    """

    def __init__(self, config: RunConfig, recipe: Recipe, directory: RunDirectory) -> None:
        self._config, self._directory = config, directory
        self._state = directory.state
        self._state.mkdir(mode=0o700, exist_ok=True)
        self._wire = self._state / "wire"
        shutil.rmtree(self._wire, ignore_errors=True)
        self._wire.mkdir()
        self._settings = StackSettings(
            recipe=recipe,
            k=config.k,
            max_leverage=config.trust.max_leverage,
            federation="asynclave-run",
            max_staleness=config.trust.max_staleness,
            max_norm=config.trust.max_norm,
            max_examples=config.trust.max_examples,
            dp=config.privacy,
        )
        self.stack = LocalStack(self._state / "stack", self._settings)
        self.canary = canary_of(config)
        self._tap: Child | None = None
        self._leaks: set[str] = set()
        self._unreadable: set[str] = set()
        self._in_enclave: bool | None = None

    def __enter__(self) -> TrustPath:
        try:
            self.stack.start()
            self._start_tap()
        except BaseException:
            self.close(finished=False)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(finished=kind is None)

    def close(self, *, finished: bool) -> None:
        """Stop every process, keep the logs, remove recordings and, when finished, all keys."""
        if self._tap is not None:
            self._tap.stop()
        self.stack.stop()
        logs = self._directory.path / "logs"
        logs.mkdir(exist_ok=True)
        for pattern in ("*.log", "audit.jsonl"):
            for log in self._state.rglob(pattern):
                shutil.copy(log, logs / log.name)
        shutil.rmtree(self._state if finished else self._wire, ignore_errors=True)

    def mods(self) -> list[Mod]:
        """Return the mods of every client, outermost first."""
        return [sealed_uploads(), self.canary]

    def server_config(self) -> Path:
        """Return the server's bundle."""
        return self.stack.server_config()

    def node_configs(self) -> dict[int, UserConfig]:
        """Return per client the path of its bundle, whose gateway is the recording wire."""
        address = f"127.0.0.1:{int((self._wire / 'port').read_text())}"
        configs: dict[int, UserConfig] = {}
        for client in range(self._config.devices.clients):
            path = self.stack.client_config(f"client-{client:04d}")
            replace(ClientConfig.load(path), gateway=address).save(path)
            configs[client] = {NODE_CONFIG_KEY: str(path)}
        return configs

    def look_into_processes(self) -> None:
        """Search the stack's memory now; what is found is remembered for the verdict."""
        needles = self.canary.needles
        if needles is None:
            return
        for name, pid in (
            ("gateway", self.stack.gateway_pid),
            ("launcher", self.stack.launcher_pid),
        ):
            try:
                if search_memory(pid, needles):
                    self._leaks.add(f"memory of the {name}")
            except PermissionError:
                self._unreadable.add(name)
        with contextlib.suppress(PermissionError):
            self._in_enclave = self._in_enclave or search_memory(self.stack.enclave_pid, needles)

    def verdict(self) -> CanaryVerdict | None:
        """Search everything; None if the chosen client never trained."""
        needles = self.canary.needles
        if needles is None:
            return None
        self.look_into_processes()
        found = set(self._leaks)
        for root in (self._state, self._directory.path):
            found.update(path.name for path in search_files(root, needles))
        return CanaryVerdict(
            found_in=tuple(sorted(found)),
            not_searched=tuple(sorted(self._unreadable)),
            num_files=sum(_count_files(root) for root in (self._state, self._directory.path)),
            wire_bytes=sum(path.stat().st_size for path in self._wire.glob("*.bin")),
            control=search_memory(os.getpid(), needles),
            in_enclave=self._in_enclave,
        )

    def _start_tap(self) -> None:
        port_file = self._wire / "port"
        config = self._state / "wire.json"
        TapConfig(self.stack.address, str(self._wire), os.getpid()).save(config)
        self._tap = Child("wire", "asynclave.run.tap", config, self._state / "wire.log")
        self._tap.wait_until(port_file.exists, _TAP_PATIENCE, SystemClock())


def _count_files(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*"))
