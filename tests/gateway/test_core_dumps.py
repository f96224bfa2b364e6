"""Processes that crash while an update is in the enclave: no core holds it.

Every test runs in a folder that anybody may write to and under a limit that allows cores of any
size. A program of the tests' own crashes there first; where it leaves no core, the kernel puts them
elsewhere and there is nothing to see.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynclave.canary import Needles, search_files, search_memory
from fl_server.stack import LocalStack, StackSettings
from tee_sim.lockdown import ACTIVE, LAYERS
from tests.support.enclave import LAYOUT, OPTIONS, Lab, SealedImage
from tests.support.processes import lives, wait_until
from tests.support.sealed import LAYOUT as STACK_LAYOUT
from tests.support.sealed import RECIPE, K, client, open_run, trained

PLANTED = np.random.default_rng(11).normal(size=LAYOUT.num_params).astype(np.float32)
NEEDLES = Needles.of(PLANTED)
ROOT = os.geteuid() == 0

# What is searched for must not stand in the program's own arguments.
CRASH = """
import os, signal, sys
held = bytes.fromhex(sys.stdin.readline().strip()[::-1])
os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, where a process that crashes leaves its core."""
    folder = tmp_path / "cores"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.chdir(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    popen = subprocess.Popen

    def popen_there(*arguments: Any, **options: Any) -> subprocess.Popen[Any]:
        return popen(*arguments, **{**options, "cwd": folder})

    # Enclaves are started in the root folder, where few may write.
    monkeypatch.setattr(subprocess, "Popen", popen_there)
    try:
        _skip_without_cores(folder)
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def _skip_without_cores(folder: Path) -> None:
    planted = PLANTED.tobytes().hex()[::-1] + "\n"
    subprocess.run([sys.executable, "-c", CRASH], input=planted, text=True, check=False)
    if not search_files(folder, NEEDLES):
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
        limit = resource.getrlimit(resource.RLIMIT_CORE)[0]
        pytest.skip(f"crashes leave no core here: core_pattern is {pattern!r}, the limit {limit}")
    for core in folder.iterdir():
        core.unlink()


def crashed(pid: int) -> None:
    os.kill(pid, signal.SIGSEGV)
    wait_until(lambda: not lives(pid), what="a crash")


@pytest.fixture(scope="module")
def sealed_image() -> SealedImage:
    return SealedImage()


def enclave_with_an_update(sealed_image: SealedImage, *skipped: str) -> Lab:
    """Start an enclave that has opened an update and waits for another."""
    lab = Lab(sealed_image, options=replace(OPTIONS, skip_layers=skipped))
    assert lab.open_run()["ok"]
    assert lab.receipt(lab.send(lab.member("planted"), PLANTED)).outcome == "accepted"
    assert not ROOT or search_memory(lab.process.pid, NEEDLES)
    return lab


def test_without_any_layer_the_update_is_in_the_enclaves_core(
    sealed_image: SealedImage, folder: Path
) -> None:
    """The search finds what the layers keep away."""
    lab = enclave_with_an_update(sealed_image, *LAYERS)
    crashed(lab.process.pid)
    assert search_files(folder, NEEDLES)
    lab.close()


@pytest.mark.parametrize(
    "layers",
    [LAYERS, ("no_core_dump",), ("not_dumpable",)],
    ids=["as shipped", "limit alone", "undumpable alone"],
)
def test_an_enclave_that_crashes_leaves_no_core(
    sealed_image: SealedImage, folder: Path, layers: tuple[str, ...]
) -> None:
    lab = enclave_with_an_update(sealed_image, *(set(LAYERS) - set(layers)))
    isolation = lab.process.facts.isolation
    assert any(isolation[layer] == ACTIVE for layer in ("no_core_dump", "not_dumpable"))
    crashed(lab.process.pid)
    assert list(folder.iterdir()) == []
    lab.close()


def test_no_process_of_a_stack_that_crashes_leaves_a_core(tmp_path: Path, folder: Path) -> None:
    assert len(PLANTED) == STACK_LAYOUT.num_params
    with LocalStack(tmp_path / "stack", StackSettings(recipe=RECIPE, k=K)) as stack:
        intake = open_run(stack, "crash")
        client(stack, "planted").upload(trained("crash", PLANTED))
        assert not ROOT or search_memory(stack.enclave_pid, NEEDLES)
        enclave = stack.enclave_pid
        place = Path(os.readlink(f"/proc/{enclave}/cwd"))
        before = set(place.glob("core*"))
        crashed(enclave)
        assert set(place.glob("core*")) == before
        for pid in (stack.gateway_pid, stack.launcher_pid):
            crashed(pid)
            assert list(folder.iterdir()) == []
        intake.close()
    assert search_files(tmp_path, NEEDLES) == []
