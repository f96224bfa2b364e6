"""The results file of sweeps: one line of JSON per finished seed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fl_protocol.codes import Code, ConfigInvalid, StorageFailed
from fl_protocol.ports import LocalDisk
from fl_sim.simulation.result import SeedResult, SimulationResult

_RESULT = TypeAdapter(SeedResult)


@contextlib.contextmanager
def held(path: Path | None) -> Iterator[None]:
    """Hold a results file, which can be written, for one sweep alone; nothing if None.

    Raises
    ------
    ConfigInvalid
        If it cannot be written.
    StorageFailed
        ``STATE_IN_USE``: another sweep writes to it.
    """
    if path is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        with _usable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
            lock = LocalDisk().lock(path.with_name(f"{path.name}.lock"), wait=False)
            alone = stack.enter_context(lock)
        if not alone:
            raise StorageFailed(
                Code.STATE_IN_USE,
                f"run.output: another sweep writes to {path}; wait, or choose another folder.",
            )
        yield


def read_results(path: Path) -> list[SeedResult]:
    """Read a results file; lines that are no whole result, as one cut short, are left out."""
    runs = []
    with _usable(path):
        lines = path.read_bytes().split(b"\n")
    for line in lines:
        try:
            runs.append(_RESULT.validate_json(line))
        except ValidationError:
            continue
    return runs


def results_of(path: Path | None, key: str) -> list[SeedResult]:
    """Return the newest result of each strategy, source and seed of a configuration."""
    if path is None:
        return []
    with _usable(path):
        if not path.exists():
            return []
    runs = [run for run in read_results(path) if run.config == key]
    return list({(run.strategy, run.source, run.seed): run for run in runs}.values())


def results_beside(path: Path, key: str, result: SimulationResult) -> list[SeedResult]:
    """Return what to compare a result with, itself included.

    Of another strategy that was changed between its runs, these are the runs since.
    """
    runs = results_of(path, key)
    sources = {run.strategy: run.source for run in (*runs, *result.runs)}
    return [run for run in runs if run.source == sources[run.strategy]]


def append(path: Path | None, run: SeedResult) -> None:
    """Add a result, on a line of its own even after one that was cut short."""
    if path is None:
        return
    with _usable(path):
        torn = not (b"\n" + path.read_bytes()).endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(run.row()) + "\n")


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"run.output: {path} cannot be used: {error.strerror}."
        ) from None
