"""Which folders a server takes up, and which it refuses and leaves as they are."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynclave.verification.audit import audit
from fl_protocol.codes import StorageFailed
from fl_server.durable.checkpoint import encode_state
from fl_server.intake.continued import read_folder
from fl_server.intake.keeper import free_folder
from fl_server.intake.records import CHAIN, MODEL, SERVER, TRUST, of_a_run
from fl_server.intake.records import LAYOUT as MANIFEST
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack
from strategies.layout import Layout
from tee_sim.appraisal import TrustPolicy
from tests.gateway.resumed.support import RUN, SETTINGS, abandon, fill_buffer, server
from tests.support.sealed import LAYOUT, RECIPE, initial


def test_a_folder_in_use_or_of_another_run_is_refused(stack: LocalStack, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    with pytest.raises(StorageFailed, match="STATE_IN_USE"):
        server(stack, folder)
    intake.close()
    other = SealedIntake(stack.server_config(), RECIPE, state_folder=folder)
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*holds the run kept"):
        other.open("another", LAYOUT, initial())
    other.close()
    layout = Layout.of({"weight": np.zeros(3, np.float32)})
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*another layout"):
        SealedIntake(stack.server_config(), RECIPE, state_folder=folder).open(
            RUN, layout, np.zeros(3, np.float32)
        )


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalStack, Path]]:
    """The folder that a server left which was killed at version 1."""
    folder = tmp_path_factory.mktemp("left")
    with LocalStack(folder / "stack", SETTINGS) as stack:
        intake = server(stack, folder / "run")
        fill_buffer(stack, intake)
        abandon(intake)
        yield stack, folder / "run"


def contents(folder: Path) -> dict[str, bytes]:
    """Files of the records; the lock is none of them."""
    return {name: (folder / name).read_bytes() for name in of_a_run(os.listdir(folder))}


def refused(stack: LocalStack, folder: Path) -> str:
    """Start a server on a folder that holds no run as a whole; it must not change anything."""
    before = contents(folder)
    with pytest.raises(StorageFailed) as caught:
        server(stack, folder)
    assert contents(folder) == before
    assert caught.value.code == "LEDGER_DAMAGED"
    return caught.value.sentence


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ([CHAIN], CHAIN),
        ([MANIFEST], MANIFEST),
        ([MODEL], MODEL),
        ([CHAIN, MANIFEST], CHAIN),
        ([CHAIN, MANIFEST, TRUST, SERVER, "head-1.json", "evidence-1.json"], CHAIN),
        ([MANIFEST, TRUST, SERVER, "head-1.json", "evidence-1.json"], MANIFEST),
    ],
)
def test_a_part_of_a_run_is_refused_and_left_as_it_is(
    left: tuple[LocalStack, Path], tmp_path: Path, gone: list[str], named: str
) -> None:
    stack, whole = left
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in gone:
        (folder / name).unlink()
    assert f"{named} is missing" in refused(stack, folder)


def test_a_server_that_died_while_it_began_a_run_begins_it_again(tmp_path: Path) -> None:
    layout = Layout.of({"weight": np.zeros(3, np.float32)})
    for number, names in enumerate([[], [MODEL], [MODEL, TRUST]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / CHAIN).touch()
        for name in names:
            (folder / name).write_bytes(bytes(12))
        assert read_folder(folder, RUN, layout, TrustPolicy()) is None


def test_a_policy_of_somebody_elses_is_in_the_way_of_a_run_and_stays(tmp_path: Path) -> None:
    layout = Layout.of({"weight": np.zeros(3, np.float32)})
    (tmp_path / TRUST).write_text("mine")
    with pytest.raises(StorageFailed, match="move it away") as caught:
        read_folder(tmp_path, RUN, layout, TrustPolicy())
    assert caught.value.code == "STATE_MISMATCH"
    assert (tmp_path / TRUST).read_text() == "mine"


def test_no_run_is_begun_where_there_is_a_part_of_one(tmp_path: Path) -> None:
    with free_folder(tmp_path, RUN) as folder:
        assert folder == tmp_path / RUN
    for name in (CHAIN, MODEL, "head-1.json"):
        folder = tmp_path / name / RUN
        folder.mkdir(parents=True)
        (folder / "job.toml").touch()
        with free_folder(folder.parent, RUN) as free:
            assert free == folder
        (folder / name).touch()
        with free_folder(folder.parent, RUN) as free:
            assert free == folder.with_name(f"{RUN}-2")


def test_runs_of_one_name_begun_at_once_are_written_down_apart(
    stack: LocalStack, tmp_path: Path
) -> None:
    configs = [stack.server_config(name, records=tmp_path) for name in ("one", "other")]
    intakes = [SealedIntake(config, RECIPE, watch_interval=math.inf) for config in configs]
    with free_folder(tmp_path, RUN) as begun:
        # As when another server has found its folder and written nothing there yet.
        intakes[0].open(RUN, LAYOUT, initial())
    intakes[1].open(RUN, LAYOUT, initial())
    folders = [begun.with_name(f"{RUN}-2"), begun]
    for intake in intakes:
        intake.close()
    assert [audit(folder).flaw for folder in folders] == [None, None]


@pytest.mark.parametrize(
    "change",
    [lambda data: data + b"x", lambda data: data[:-1], lambda data: data + bytes(4), lambda _: b""],
)
def test_a_model_of_another_length_is_refused(
    left: tuple[LocalStack, Path], tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    stack, whole = left
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / MODEL).write_bytes(change((whole / MODEL).read_bytes()))
    assert f"{MODEL} is damaged" in refused(stack, folder)


STATE = {"version": 1, "merges": 0, "nodes": {"0": "node-0"}}
MEAN = np.zeros(LAYOUT.num_params, np.float32)


@pytest.mark.parametrize(
    "state",
    [
        {"meta": "no JSON"},
        {"meta": "[" * 100_000},
        {"meta": "[]"},
        {"meta": "{}"},
        {"meta": json.dumps(STATE | {"version": "1"})},
        {"meta": json.dumps(STATE | {"merges": -1})},
        {"meta": json.dumps(STATE | {"nodes": ["node-0"]})},
        {"meta": json.dumps(STATE | {"nodes": {"0": 1}})},
        {"meta": json.dumps(STATE | {"merges": 1})},
        {"meta": json.dumps(STATE), "mean": MEAN},
        {"meta": json.dumps(STATE | {"merges": 1}), "mean": MEAN.astype(np.float64)},
        {"meta": json.dumps(STATE | {"merges": 1}), "mean": MEAN[1:]},
    ],
)
def test_a_servers_state_that_is_none_is_refused(
    left: tuple[LocalStack, Path], tmp_path: Path, state: dict[str, Any]
) -> None:
    stack, whole = left
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / SERVER).write_bytes(encode_state(state))
    assert f"{SERVER} is damaged" in refused(stack, folder)


def test_a_run_left_whole_is_taken_up(left: tuple[LocalStack, Path], tmp_path: Path) -> None:
    stack, whole = left
    again = server(stack, Path(shutil.copytree(whole, tmp_path / "run")))
    assert again.version == 1
    again.close()
