"""What a deployment is made of, and what is known about it while it runs."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import LocalDisk
from fl_server.stack import StackSettings
from strategies.recipes.async_wa import AsyncWA
from tee_sim.settings import load_settings

CONNECTION = "asynclave"


@dataclass(frozen=True)
class DeploymentSpec:
    """The choices made at `up`.

    Parameters
    ----------
    nodes : int
        Number of SuperNodes; each owns one of as many data partitions.
    confidential : bool
        Whether gateway and enclave run and every node seals its updates.
    buffer_size : int
        Updates per released model, of as many distinct clients (confidential only).
    slow_node : int or None
        Index of the node made artificially slow.
    slow_delay : float
        Seconds that node waits in every training task.
    port : int
        Port of the SuperLink; 0 takes a free one.
    warm : bool
        Whether SuperNodes fork their tasks from a process in which the imports are done.
    preload : tuple of str
        Modules imported there, beside those of Flower, of the mod and torch.

    Raises
    ------
    ConfigInvalid
        The choices contradict each other.
    """

    nodes: int = 3
    confidential: bool = True
    buffer_size: int = 2
    slow_node: int | None = None
    slow_delay: float = 2.0
    port: int = 0
    warm: bool = False
    preload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.slow_node is not None and not 0 <= self.slow_node < self.nodes:
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                f"there is no node {self.slow_node} among {self.nodes}; the first is number 0",
            )
        if not math.isfinite(self.slow_delay):
            raise ConfigInvalid(
                Code.CONFIG_INVALID, f"a node cannot wait for {self.slow_delay} s; give a number"
            )
        if self.confidential:
            check_buffer(self.nodes, self.buffer_size)
        if self.preload and not self.warm:
            raise ConfigInvalid(
                Code.CONFIG_INVALID, "modules are preloaded by warm SuperNodes only; add --warm"
            )

    def save(self, path: Path) -> None:
        """Write to a JSON file."""
        save_fields(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read from a JSON file; raises ConfigInvalid if it is damaged."""
        return load_settings(cls, path)


@dataclass(frozen=True)
class Status:
    """What the supervisor reports.

    Parameters
    ----------
    phase : str
        "starting", "ready", "failed" or "stopped".
    supervisor : tuple of int
        Process id and start time (clock ticks since boot) of the supervisor.
    superlink : str
        Address of the SuperLink, "host:port".
    gateway : str or None
        Address of the gateway, "host:port".
    server_config : str or None
        Path of the server's bundle for the gateway.
    pids : dict of str to int
        Process ids by name: superlink, node-0..., and in confidential mode
        gateway and launcher.
    ended : tuple of str
        Children that ended on their own since the deployment was ready.
    code, sentence : str
        Why the phase is "failed".
    """

    phase: str
    supervisor: tuple[int, int]
    superlink: str = ""
    gateway: str | None = None
    server_config: str | None = None
    pids: dict[str, int] = dataclasses.field(default_factory=dict)
    ended: tuple[str, ...] = ()
    code: str = ""
    sentence: str = ""

    def save(self, path: Path) -> None:
        """Replace the status file."""
        save_fields(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a status file; raises ConfigInvalid if it is damaged."""
        return load_settings(cls, path)


@dataclass(frozen=True)
class StateDir:
    """Where everything of one deployment lives.

    Parameters
    ----------
    root : Path
        Absolute path.
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.resolve())

    @property
    def spec(self) -> Path:
        """The choices made at `up`; its presence marks the directory as ours."""
        return self.root / "spec.json"

    @property
    def status(self) -> Path:
        """What the supervisor reports."""
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor as long as it lives."""
        return self.root / "lock"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.root / "logs"

    @property
    def tls(self) -> Path:
        """Certificates of the SuperLink."""
        return self.root / "tls"

    @property
    def keys(self) -> Path:
        """Authentication keys of the SuperNodes."""
        return self.root / "keys"

    @property
    def stack(self) -> Path:
        """State of gateway, launcher and enclave."""
        return self.root / "stack"

    @property
    def flwr_home(self) -> Path:
        """FLWR_HOME for the `flwr` command line."""
        return self.root / "flwr"

    def process_home(self, name: str) -> Path:
        """FLWR_HOME of one Flower process, so that none installs an app into another's."""
        return self.root / "homes" / name


def check_buffer(nodes: int, buffer_size: int) -> None:
    """Raise ConfigInvalid unless so many nodes can fill a buffer that may be released."""
    if not 2 <= buffer_size <= nodes:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"a released model needs updates of 2 to {nodes} (all) nodes, "
            f"not {buffer_size}; change the buffer size or the number of nodes",
        )


def stack_settings(buffer_size: int) -> StackSettings:
    """Return the trusted stack's settings: what `AsyncWA(buffer_size=..., gateway=...)` runs."""
    return StackSettings(recipe=AsyncWA(buffer_size=buffer_size, disjoint=True), k=buffer_size)


def save_fields(path: Path, fields: object) -> None:
    """Replace a JSON file."""
    LocalDisk().write_atomic(path, json.dumps(fields, indent=2).encode())
