"""The warm executor with real processes; a real SuperNode is in tests/deployment/test_warm.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_client.warm.executor import ForkExecutor
from fl_client.warm.flwr_compat import ExecutionSpec, LaunchResult, TaskType
from fl_protocol.codes import ConfigInvalid


def work(spec: ExecutionSpec) -> None:
    """Do what the token says: write down what this process is, or die."""
    if spec.token == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    import numpy

    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "draw": float(numpy.random.random()),
        "arguments": Path("/proc/self/cmdline").read_text(),
        "flower": "flwr.supernode.runtime.run_clientapp" in sys.modules,
        "preloaded": "colorsys" in sys.modules,
    }
    draft = Path(f"{spec.token}.draft")
    draft.write_text(json.dumps(found))
    draft.rename(spec.token)


def task(
    token: str, *, installs: bool = False, kind: TaskType = TaskType.CLIENT_APP
) -> ExecutionSpec:
    return ExecutionSpec(kind, "127.0.0.1:1", token, True, None, installs, os.getpid(), False, 1)


@pytest.fixture(scope="module")
def executor() -> Iterator[ForkExecutor]:
    made = ForkExecutor(["numpy", "colorsys"], work)
    yield made
    made.close()


def result_of(path: Path) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)
    found: dict[str, object] = json.loads(path.read_text())
    return found


def drained(executor: ForkExecutor) -> bool:
    deadline = time.monotonic() + 30
    while executor.running and time.monotonic() < deadline:
        executor.reconcile()
        time.sleep(0.02)
    return executor.running == 0


def test_each_task_has_a_child_of_its_own_with_the_imports_done(
    executor: ForkExecutor, tmp_path: Path
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    assert [executor.launch(task(str(path))) for path in paths] == [LaunchResult.accepted()] * 2
    first, second = map(result_of, paths)
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["pid"] != second["pid"]
    assert first["flower"] and first["preloaded"]
    assert drained(executor)


def test_children_do_not_share_random_numbers(executor: ForkExecutor, tmp_path: Path) -> None:
    paths = [tmp_path / str(index) for index in range(3)]
    for path in paths:
        executor.launch(task(str(path)))
    assert len({result_of(path)["draw"] for path in paths}) == 3
    assert drained(executor)


def test_a_token_is_not_among_the_arguments_of_a_process(
    executor: ForkExecutor, tmp_path: Path
) -> None:
    path = tmp_path / "secret-token"
    executor.launch(task(str(path)))
    assert "secret-token" not in str(result_of(path)["arguments"])
    assert drained(executor)


def test_a_task_that_crashes_harms_no_other(executor: ForkExecutor, tmp_path: Path) -> None:
    # given a task under way while another one dies
    before, after = tmp_path / "before", tmp_path / "after"
    executor.launch(task(str(before)))
    executor.launch(task("crash"))
    # then it ends, and the next one is forked from the same process
    parent = result_of(before)["parent"]
    assert drained(executor)
    executor.launch(task(str(after)))
    assert result_of(after)["parent"] == parent
    assert drained(executor)


def test_a_fork_server_that_was_killed_is_started_again(
    executor: ForkExecutor, tmp_path: Path
) -> None:
    executor.launch(task(str(tmp_path / "before")))
    parent = result_of(tmp_path / "before")["parent"]
    assert drained(executor)
    os.kill(int(str(parent)), signal.SIGKILL)
    executor.launch(task(str(tmp_path / "after")))
    assert result_of(tmp_path / "after")["parent"] != parent
    assert drained(executor)


@pytest.mark.parametrize(
    ("spec", "program"),
    [
        (task("token", installs=True), "flwr-clientapp"),
        (task("token", kind=TaskType.SERVER_APP), "flwr-serverapp"),
    ],
)
def test_what_must_begin_cold_goes_to_flowers_executor(
    executor: ForkExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spec: ExecutionSpec,
    program: str,
) -> None:
    stand_in = tmp_path / program
    stand_in.write_text(f"#!/bin/sh\necho '{{}}' > {tmp_path}/started\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    executor.launch(spec)
    assert result_of(tmp_path / "started") == {}
    assert executor.running == 0


def test_refuses_to_preload_a_module_that_is_missing() -> None:
    with pytest.raises(ConfigInvalid, match="no_such_module"):
        ForkExecutor(["no_such_module"])
