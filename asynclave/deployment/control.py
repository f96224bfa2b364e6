"""Start and stop a deployment, and find a running one."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from asynclave.deployment.errors import DeploymentCode, DeploymentError
from asynclave.deployment.flower import flower_environment
from asynclave.deployment.processes import held_lock, log_tail, program_path, started_at
from asynclave.deployment.spec import CONNECTION, DeploymentSpec, StateDir, Status
from fl_protocol.storage import stored

_UP_PATIENCE = 150.0
_DOWN_PATIENCE = 30.0
_POLL = 0.1


@dataclass(frozen=True)
class Deployment:
    """A running deployment.

    Parameters
    ----------
    state : StateDir
        Where it lives.
    spec : DeploymentSpec
        What it was asked to be.
    status : Status
        What its supervisor reported when it became ready.
    """

    state: StateDir
    spec: DeploymentSpec
    status: Status

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which `flwr` knows this deployment's connection."""
        return flower_environment(self.state.flwr_home)

    def run_arguments(self, app: Path) -> list[str]:
        """Return the `flwr` arguments that run an app on this deployment.

        In confidential mode the app's configuration must have the keys "buffer-size" and
        "asynclave-server-config", as the quickstart's has.
        """
        arguments = ["run", str(app), CONNECTION]
        if bundle := self.status.server_config:
            settings = f'buffer-size={self.spec.buffer_size} asynclave-server-config="{bundle}"'
            arguments += ["--run-config", settings]
        return arguments

    def run_command(self, app: Path) -> str:
        """Return the shell command that runs an app on this deployment and shows its log."""
        names = (
            "FLWR_HOME",
            "FLWR_TELEMETRY_ENABLED",
            "FLWR_DISABLE_UPDATE_CHECK",
            "NO_PROXY",
        )
        flwr = program_path("flwr")
        settings = [f"{name}={shlex.quote(self.environment[name])}" for name in names]
        return " ".join([*settings, shlex.join([flwr, *self.run_arguments(app), "--stream"])])


def up(
    state_dir: Path,
    nodes: int = 3,
    confidential: bool = True,
    *,
    buffer_size: int = 2,
    slow_node: int | None = None,
    slow_delay: float = 2.0,
    port: int = 0,
    warm: bool = False,
    preload: tuple[str, ...] = (),
) -> Deployment:
    """Start a deployment, or return the same one if it is already up.

    Parameters
    ----------
    state_dir : Path
        New or empty directory, or one that an earlier deployment used (which is emptied).
    nodes, confidential, buffer_size, slow_node, slow_delay, port, warm, preload
        See `DeploymentSpec`.

    Raises
    ------
    DeploymentError
        ALREADY_UP (with other settings), STATE_DIR_IN_USE, PORT_IN_USE, CHILD_DIED, NOT_READY,
        PROGRAM_MISSING, or CONFIG_INVALID if there is no such module to preload.
    StorageFailed
        The directory cannot be used.
    ConfigInvalid
        The choices contradict each other.
    """
    state = StateDir(state_dir)
    spec = DeploymentSpec(
        nodes, confidential, buffer_size, slow_node, slow_delay, port, warm, preload
    )
    if running := find(state_dir):
        if running.spec != spec:
            raise DeploymentError(
                DeploymentCode.ALREADY_UP,
                f"another deployment runs in {state.root}; stop it with `asynclave down "
                f"--state-dir {shlex.quote(str(state.root))}` first.",
            )
        return running
    with stored(str(state.root)):
        _make_empty(state)
        spec.save(state.spec)
    supervisor = _start_supervisor(state)
    try:
        return Deployment(state, spec, _await_ready(state, supervisor))
    except BaseException:
        # On Ctrl-C as well: nothing may stay behind half started.
        supervisor.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(_DOWN_PATIENCE)
        raise


def find(state_dir: Path) -> Deployment | None:
    """Return the deployment that runs in a directory, None when there is none."""
    state = StateDir(state_dir)
    if not state.status.exists() or not state.spec.exists():
        return None
    status = Status.load(state.status)
    if not _alive(status) or status.phase != "ready":
        return None
    return Deployment(state, DeploymentSpec.load(state.spec), status)


def down(state_dir: Path) -> bool:
    """Stop the deployment in a directory; its logs stay.

    Returns
    -------
    bool
        Whether there was one to stop.

    Raises
    ------
    DeploymentError
        NOT_STOPPED, when the supervisor had to be killed.
    """
    state = StateDir(state_dir)
    if not state.status.exists():
        return False
    status = Status.load(state.status)
    if not _alive(status):
        return False
    pid = status.supervisor[0]
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_PATIENCE
    while _alive(status):
        if time.monotonic() > deadline:
            # Its children receive SIGTERM from the kernel when it dies.
            os.kill(pid, signal.SIGKILL)
            raise DeploymentError(
                DeploymentCode.NOT_STOPPED,
                f"the supervisor (process {pid}) did not stop within {_DOWN_PATIENCE:g} s and "
                f"was killed; {log_tail(state.logs / 'supervisor.log')}",
            )
        time.sleep(_POLL)
    return True


def _alive(status: Status) -> bool:
    pid, started = status.supervisor
    return started_at(pid) == started


def _make_empty(state: StateDir) -> None:
    if state.root.exists() and any(state.root.iterdir()) and not state.spec.exists():
        raise DeploymentError(
            DeploymentCode.STATE_DIR_IN_USE,
            f"{state.root} holds files that are not a deployment's; choose another directory.",
        )
    state.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    state.root.chmod(0o700)
    with held_lock(state.lock) as free:
        if not free:
            raise DeploymentError(
                DeploymentCode.ALREADY_UP,
                f"a deployment is being started or stopped in {state.root}; try again.",
            )
        for path in state.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in (state.lock, state.spec):
                path.unlink()
    state.logs.mkdir()


def _start_supervisor(state: StateDir) -> subprocess.Popen[bytes]:
    with (state.logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "asynclave.deployment.supervisor", str(state.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=flower_environment(state.flwr_home),
            start_new_session=True,
        )


def _await_ready(state: StateDir, supervisor: subprocess.Popen[bytes]) -> Status:
    deadline = time.monotonic() + _UP_PATIENCE
    while time.monotonic() < deadline:
        ended = supervisor.poll() is not None
        if state.status.exists():
            status = Status.load(state.status)
            if status.phase == "ready":
                return status
            if status.phase == "failed" and ended:
                raise DeploymentError(status.code, status.sentence)
        if ended:
            raise DeploymentError(
                DeploymentCode.CHILD_DIED,
                f"the supervisor ended; {log_tail(state.logs / 'supervisor.log')}",
            )
        time.sleep(_POLL)
    raise DeploymentError(
        DeploymentCode.NOT_READY,
        f"the deployment was not ready after {_UP_PATIENCE:g} s; see the logs in {state.logs}.",
    )
