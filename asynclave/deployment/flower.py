"""Flower's side of a deployment: SuperLink and SuperNodes with TLS and node authentication."""

from __future__ import annotations

import datetime
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from asynclave.deployment.errors import DeploymentCode, DeploymentError
from asynclave.deployment.processes import Program, free_port, program_path
from asynclave.deployment.spec import CONNECTION, StateDir
from fl_protocol.ports import LocalDisk
from fl_server.stack.pki import ServerCertificate, create_server_certificate

_HOST = "127.0.0.1"
_COMMAND_PATIENCE = 60.0
_SECRET_BYTES = 32


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment for a Flower process that must not leave this machine.

    Parameters
    ----------
    home : Path
        FLWR_HOME: configuration and installed apps.
    """
    packages = str(Path(__file__).resolve().parents[2])
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": _joined(",", _HOST, "localhost", os.environ.get("NO_PROXY", "")),
        "no_proxy": _joined(",", _HOST, "localhost", os.environ.get("no_proxy", "")),
        # SuperLink and SuperNode look their helper programs up by name.
        "PATH": _joined(os.pathsep, str(Path(sys.executable).parent), os.environ["PATH"]),
        # Apps import the very packages this process uses, wherever it was started.
        "PYTHONPATH": _joined(os.pathsep, packages, os.environ.get("PYTHONPATH", "")),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


class SuperLink:
    """A SuperLink that admits only registered SuperNodes.

    Parameters
    ----------
    state : StateDir
        Receives certificates, log and the `flwr` configuration.
    port : int
        Port to listen on.
    """

    def __init__(self, state: StateDir, port: int) -> None:
        self._state = state
        self.address = f"{_HOST}:{port}"
        state.tls.mkdir(parents=True)
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = create_server_certificate(state.tls, (_HOST, "localhost"), now)
        self._write_connection()
        home = state.process_home("superlink")
        home.mkdir(parents=True)
        self.program = Program(
            "superlink",
            [
                *(program_path("flower-superlink"), "--enable-supernode-auth"),
                *("--host", _HOST, "--port", str(port)),
                *_tls_options(self.certificate),
            ],
            flower_environment(home),
            state.logs / "superlink.log",
        )

    def healthy(self) -> bool:
        """Tell whether the SuperLink answers."""
        context = ssl.create_default_context(cafile=self.certificate.ca)
        connection = http.client.HTTPSConnection(self.address, timeout=2, context=context)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            connection.close()

    def register(self, public_keys: Sequence[Path]) -> None:
        """Admit SuperNodes by their public keys.

        Raises
        ------
        DeploymentError
            NOT_READY with what Flower said.
        """
        calls = [self._flwr("supernode", "register", str(key)) for key in public_keys]
        for call in calls:
            _answer(call)

    def nodes_online(self) -> int:
        """Count the SuperNodes that are connected."""
        answer = _answer(self._flwr("supernode", "list"))
        return sum(node["status"] == "online" for node in answer["nodes"])

    def _flwr(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [program_path("flwr"), *arguments, CONNECTION, "--format", "json"],
            env=flower_environment(self._state.flwr_home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _write_connection(self) -> None:
        self._state.flwr_home.mkdir(parents=True)
        (self._state.flwr_home / "config.toml").write_text(
            f"[superlink]\ndefault = {json.dumps(CONNECTION)}\n\n"
            f"[superlink.{CONNECTION}]\n"
            f"address = {json.dumps(self.address)}\n"
            f"root-certificates = {json.dumps(str(self.certificate.ca))}\n",
            encoding="utf-8",
        )


def create_node_key(directory: Path, name: str) -> Path:
    """Create a SuperNode's authentication key `name` (0600) and `name`.pub; returns the first."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = directory / name, directory / f"{name}.pub"
    LocalDisk().write_atomic(
        private,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )
    return private


def start_node(
    state: StateDir,
    superlink: SuperLink,
    name: str,
    key: Path,
    node_config: Mapping[str, str | int | float],
    preload: Sequence[str] | None = None,
) -> list[Program]:
    """Start a SuperNode that authenticates with `key`, its keeper, and what executes its tasks.

    Parameters
    ----------
    preload : sequence of str, optional
        Modules that a warm executor imports; without it the SuperNode starts Flower's own.
    """
    home = state.process_home(name)
    home.mkdir(parents=True)
    environment = flower_environment(home)
    runtime = f"{_HOST}:{free_port()}"
    host, port = runtime.split(":")
    secret = state.keys / f"{name}.executor"
    isolation = () if preload is None else ("--isolation", "process", *_secret_option(secret))
    if preload is not None:
        LocalDisk().write_atomic(secret, os.urandom(_SECRET_BYTES))
    node = Program(
        name,
        [
            *(sys.executable, "-m", "fl_client.supernode"),
            *("--superlink", superlink.address),
            *("--root-certificates", str(superlink.certificate.ca)),
            *("--auth-supernode-private-key", str(key)),
            *("--host", host, "--port", port),
            # JSON strings, integers and decimals are TOML values as well.
            "--node-config",
            " ".join(f"{key}={json.dumps(value)}" for key, value in node_config.items()),
            *isolation,
        ],
        environment,
        state.logs / f"{name}.log",
    )
    if preload is None:
        return [node]
    executor = [sys.executable, "-m", "fl_client.warm", "--insecure", "--runtime-api-address"]
    modules = [word for module in preload for word in ("--preload", module)]
    return [
        node,
        Program(
            f"{name}-executor",
            [*executor, runtime, *_secret_option(secret), *modules],
            environment,
            state.logs / f"{name}-executor.log",
        ),
    ]


def warm_modules() -> tuple[str, ...]:
    """Return what a warm executor preloads in any case: the mod, and torch if it is installed."""
    return ("fl_client.mods", *(("torch",) if find_spec("torch") else ()))


def wait_until(
    ready: Callable[[], bool],
    programs: Sequence[Program],
    patience: float,
    pause: Callable[[float], Any],
    what: str,
) -> None:
    """Block until `ready()`.

    Parameters
    ----------
    ready : callable
        Called five times per second.
    programs : sequence of Program
        Whose death ends the waiting.
    patience : float
        Seconds to wait, counted in pauses.
    pause : callable
        Waits for that many seconds.
    what : str
        What is waited for, for the message.

    Raises
    ------
    DeploymentError
        CHILD_DIED or NOT_READY.
    """
    step = 0.2
    for _ in range(int(patience / step)):
        for program in programs:
            program.check()
        if ready():
            return
        pause(step)
    raise DeploymentError(
        DeploymentCode.NOT_READY, f"{what} took longer than {patience:g} s; see the logs."
    )


def _secret_option(secret: Path) -> tuple[str, str]:
    return "--superexec-auth-secret-file", str(secret)


def _tls_options(certificate: ServerCertificate) -> tuple[str, ...]:
    return (
        *("--ssl-ca-certfile", str(certificate.ca)),
        *("--ssl-certfile", str(certificate.certificate)),
        *("--ssl-keyfile", str(certificate.key)),
    )


def _answer(call: subprocess.Popen[str]) -> dict[str, Any]:
    output, complaint = call.communicate(timeout=_COMMAND_PATIENCE)
    if call.returncode != 0:
        raise DeploymentError(
            DeploymentCode.NOT_READY, f"Flower refused a request: {(output + complaint).strip()}"
        )
    answer: dict[str, Any] = json.loads(output)
    return answer


def _joined(separator: str, *parts: str) -> str:
    entries = (entry for part in parts for entry in part.split(separator) if entry)
    return separator.join(dict.fromkeys(entries))
