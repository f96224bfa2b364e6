"""The background process that owns every process of a deployment.

``python -m asynclave.deployment.supervisor STATE_DIR``, started by `up` and ended by `down`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from pathlib import Path

from asynclave.deployment.errors import DeploymentCode
from asynclave.deployment.flower import (
    SuperLink,
    create_node_key,
    start_node,
    wait_until,
    warm_modules,
)
from asynclave.deployment.processes import (
    Program,
    adopt_orphans,
    free_port,
    held_lock,
    started_at,
    sweep,
)
from asynclave.deployment.spec import DeploymentSpec, StateDir, Status, stack_settings
from fl_client.config import NODE_CONFIG_KEY
from fl_client.warm.preload import require_module
from fl_protocol.codes import AsynclaveError
from fl_server.stack import LocalStack

_PATIENCE = 60.0
_STOP_PATIENCE = 10.0


class _Stopped(Exception):
    """`down` asked for the end."""


class Supervisor:
    """Starts the parts in order, reports, and stops them in reverse order.

    Parameters
    ----------
    state : StateDir
        Directory with the deployment's spec.
    spec : DeploymentSpec
        What to start.
    stop : threading.Event
        Set when the deployment is to end.
    """

    def __init__(self, state: StateDir, spec: DeploymentSpec, stop: threading.Event) -> None:
        self._state = state
        self._spec = spec
        self._stop = stop
        self._programs: list[Program] = []
        self._trusted: LocalStack | None = None
        self._status = Status("starting", (os.getpid(), started_at(os.getpid()) or 0))

    def run(self) -> int:
        """Start, wait for the stop event, stop; returns the exit status."""
        outcome: dict[str, str] = {"phase": "stopped"}
        self._report()
        try:
            self._start()
            self._watch()
        except _Stopped:
            pass
        except AsynclaveError as error:
            outcome = {"phase": "failed", "code": error.code, "sentence": error.sentence}
        except Exception as error:
            # `up` waits for a report, whatever went wrong.
            outcome = {"phase": "failed", "code": DeploymentCode.NOT_READY, "sentence": repr(error)}
        finally:
            self._end()
        self._report(**outcome)
        return 0 if outcome["phase"] == "stopped" else 1

    def _start(self) -> None:
        for module in self._spec.preload:
            # A warm executor would end by itself, and a deployment without one runs no task.
            require_module(module)
        superlink = SuperLink(self._state, free_port(self._spec.port))
        self._programs.append(superlink.program)
        trusted = self._start_trusted() if self._spec.confidential else {}
        wait_until(superlink.healthy, self._programs, _PATIENCE, self._pause, "the SuperLink")
        names = [f"node-{index}" for index in range(self._spec.nodes)]
        self._state.keys.mkdir()
        keys = [create_node_key(self._state.keys, name) for name in names]
        superlink.register([key.with_suffix(".pub") for key in keys])
        for index, (name, key) in enumerate(zip(names, keys, strict=True)):
            config = self._node_config(index, name)
            node = start_node(self._state, superlink, name, key, config, self._preload)
            self._programs.extend(node)
        wait_until(
            lambda: superlink.nodes_online() == self._spec.nodes,
            self._programs,
            _PATIENCE,
            self._pause,
            "connecting the SuperNodes",
        )
        pids = {program.name: program.pid for program in self._programs} | trusted
        self._report(phase="ready", superlink=superlink.address, pids=pids)

    def _start_trusted(self) -> dict[str, int]:
        stack = LocalStack(self._state.stack, stack_settings(self._spec.buffer_size))
        stack.start()
        self._trusted = stack
        server = stack.server_config(records=self._state.stack / "records")
        self._report(gateway=stack.address, server_config=str(server))
        return {"gateway": stack.gateway_pid, "launcher": stack.launcher_pid}

    def _node_config(self, index: int, name: str) -> dict[str, str | int | float]:
        config: dict[str, str | int | float] = {
            "partition-id": index,
            "num-partitions": self._spec.nodes,
        }
        if index == self._spec.slow_node:
            config["delay"] = self._spec.slow_delay
        if self._trusted:
            config[NODE_CONFIG_KEY] = str(self._trusted.client_config(name))
        return config

    @property
    def _preload(self) -> tuple[str, ...] | None:
        return (*warm_modules(), *self._spec.preload) if self._spec.warm else None

    def _watch(self) -> None:
        while True:
            ended = tuple(name for name, pid in self._status.pids.items() if not started_at(pid))
            if ended != self._status.ended:
                self._report(ended=ended)
            self._pause(1.0)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped

    def _end(self) -> None:
        # First ask all, then wait for all: each takes about a second.
        for program in self._programs:
            program.terminate()
        for program in self._programs:
            program.reap(_STOP_PATIENCE)
        if self._trusted:
            self._trusted.stop()
        sweep(_STOP_PATIENCE)

    def _report(self, **changes: object) -> None:
        self._status = dataclasses.replace(self._status, **changes)  # type: ignore[arg-type]
        self._status.save(self._state.status)


def main(arguments: list[str]) -> int:
    """Run the deployment described in a state directory until SIGTERM or SIGINT."""
    state = StateDir(Path(arguments[0]))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(held_lock(state.lock)):
            print(f"another supervisor owns {state.root}", file=sys.stderr)
            return 2
        adopt_orphans()
        return Supervisor(state, DeploymentSpec.load(state.spec), stop).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
