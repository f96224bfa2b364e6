"""Machines of a test: network namespaces that hang on one bridge, and processes in them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_SUBNET = "10.231.7"
_LINK = "eth0"


def missing() -> str:
    """Say what this machine lacks to have network namespaces; empty if nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "iproute2 is not installed"
    probe = f"probe-{secrets.token_hex(4)}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return "this host gives no network namespaces"
    try:
        bridge = ["link", "add", "b0", "type", "bridge"]
        done = subprocess.run(["ip", "-n", probe, *bridge], capture_output=True)
        return "" if done.returncode == 0 else "this kernel has no bridges"
    finally:
        subprocess.run(["ip", "netns", "del", probe], check=True)


class Machine:
    """One network namespace.

    Parameters
    ----------
    name : str
        Of the namespace.
    address : str
        Its IPv4 address.
    logs : Path
        Folder that receives one log per program.
    """

    def __init__(self, name: str, address: str, logs: Path) -> None:
        self.name, self.address, self._logs = name, address, logs
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, program: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        """Start a program with this environment and nothing else."""
        with (self._logs / f"{program}.log").open("ab") as log:
            self._programs[program] = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def call(
        self, command: Sequence[str], environment: Mapping[str, str], patience: float = 60
    ) -> str:
        """Run a program to its end and return what it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=patience,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def log(self, program: str) -> str:
        """Return what a program wrote so far."""
        return (self._logs / f"{program}.log").read_text(errors="replace")

    def pids(self) -> list[int]:
        """Return the processes in this namespace."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self) -> None:
        """Kill everything that runs here, as a machine that loses power does."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for program in self._programs.values():
                program.poll()
            time.sleep(0.05)


class Network:
    """A server and nodes on one bridge; everything is gone at the end, whatever happened.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    logs : Path
        Folder for the programs' logs.
    """

    def __init__(self, nodes: int, logs: Path) -> None:
        tag = secrets.token_hex(4)
        self.server = Machine(f"as-{tag}-server", f"{_SUBNET}.1", logs)
        self.nodes = [
            Machine(f"as-{tag}-node-{index}", f"{_SUBNET}.{10 + index}", logs)
            for index in range(nodes)
        ]

    def __enter__(self) -> Self:
        try:
            self._create()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def limit(self, node: int, rate: str) -> None:
        """Limit the bandwidth between the bridge and a node, in both directions."""
        shape = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"]
        _run("tc", "-n", self.nodes[node].name, "qdisc", "add", "dev", _LINK, *shape)
        _run("tc", "-n", self.server.name, "qdisc", "add", "dev", f"port{node}", *shape)

    @contextlib.contextmanager
    def partitioned(self, node: int) -> Iterator[None]:
        """Have a node's link down."""
        port = ["link", "set", f"port{node}"]
        self._ip(self.server, *port, "down")
        try:
            yield
        finally:
            self._ip(self.server, *port, "up")

    def _create(self) -> None:
        for machine in (self.server, *self.nodes):
            _run("ip", "netns", "add", machine.name)
            self._ip(machine, "link", "set", "lo", "up")
        self._ip(self.server, "link", "add", "bridge", "type", "bridge")
        for index, node in enumerate(self.nodes):
            port = f"port{index}"
            peer = ["type", "veth", "peer", "name", _LINK, "netns", node.name]
            self._ip(self.server, "link", "add", port, *peer)
            self._ip(self.server, "link", "set", port, "master", "bridge", "up")
            self._join(node, _LINK)
        self._join(self.server, "bridge")

    def _join(self, machine: Machine, interface: str) -> None:
        self._ip(machine, "addr", "add", f"{machine.address}/24", "dev", interface)
        self._ip(machine, "link", "set", interface, "up")

    def _ip(self, machine: Machine, *arguments: str) -> None:
        _run("ip", "-n", machine.name, *arguments)

    def _remove(self) -> None:
        for machine in (*self.nodes, self.server):
            machine.kill()
            # Fails if it was never made.
            subprocess.run(["ip", "netns", "del", machine.name], capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
