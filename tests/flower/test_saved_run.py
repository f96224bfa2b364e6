"""A ServerApp that is killed continues its run from the folder in which it was kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fl_protocol.codes import ConfigInvalid, StorageFailed
from fl_server.durable.folder import LEDGER, connect, open_saved
from fl_server.durable.ledger import Ledger
from fl_server.strategy import AsyncStrategy, AsyncWA, FedBuff
from strategies.catalog import recipe_from
from strategies.update import digest_of
from tests.support.federation import Recorder, initial_arrays, virtual_grid

ROUNDS = 30

_CHILD = """
import os, signal, sys
from fl_server.strategy import AsyncWA
from tests.support.federation import initial_arrays, virtual_grid

left = int(sys.argv[2])

def die_in_the_middle(event):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

strategy = AsyncWA(buffer_size=3, state_folder=sys.argv[1], callbacks=[die_in_the_middle])
strategy.start(virtual_grid(), initial_arrays(), num_rounds=30)
"""


def versions(folder: Path) -> list[tuple[int, str]]:
    ledger = Ledger(connect(folder / LEDGER, read_only=False))
    found = {row.version: row.model_digest for row in ledger.rows()}
    ledger.close()
    return list(found.items())


def killed(folder: Path, events: int) -> None:
    root = Path(__file__).resolve().parents[2]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), str(events)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL


def test_a_killed_run_is_continued_from_its_newest_version(tmp_path):
    killed(tmp_path, events=7)
    first = versions(tmp_path)
    killed(tmp_path, events=9)
    second = versions(tmp_path)
    assert second[: len(first)] == first and len(second) > len(first) > 1

    heard = Recorder()
    strategy = AsyncWA(buffer_size=3, state_folder=tmp_path, callbacks=[heard])
    strategy.start(virtual_grid(), initial_arrays(), num_rounds=ROUNDS)
    final = versions(tmp_path)
    assert final[: len(second)] == second
    assert [version for version, _ in final if version] == list(range(1, ROUNDS + 1))
    assert heard.merges[0].merge.version in (second[-1][0] + 1, second[-1][0] + 2)

    with open_saved(tmp_path) as saved:
        named = [u.update_id for row in saved.ledger.rows() for u in row.updates]
        assert len(named) == len(set(named))
        saved.ledger.check_integrity()
        assert {e.meta["id"] for e in saved.journal.entries()} >= set(named)


def test_a_finished_run_is_not_trained_again(tmp_path):
    make = lambda: FedBuff(buffer_size=3, state_folder=tmp_path)  # noqa: E731
    first = make().start(virtual_grid(), initial_arrays(), num_rounds=3)
    heard = Recorder()
    strategy = FedBuff(buffer_size=3, state_folder=tmp_path, callbacks=[heard])
    again = strategy.start(virtual_grid(), initial_arrays(), num_rounds=3)
    assert not heard.merges
    for name, array in first.arrays.items():
        assert (array.numpy() == again.arrays[name].numpy()).all()
    make().start(virtual_grid(), initial_arrays(), num_rounds=5)
    assert versions(tmp_path)[-1][0] == 5


def test_saving_does_not_change_the_run(tmp_path):
    models = {}
    for folder in (None, tmp_path):
        merges = Recorder()
        strategy = AsyncWA(buffer_size=3, state_folder=folder, callbacks=[merges])
        strategy.start(virtual_grid(), initial_arrays(), num_rounds=4)
        models[folder] = [digest_of(event.merge.params) for event in merges.merges]
    assert models[None] == models[tmp_path]
    assert [digest for version, digest in versions(tmp_path) if version] == models[tmp_path]


def test_a_synchronous_round_that_was_cut_off_is_completed(tmp_path):
    class Killed(Exception):
        pass

    def die(event: object, left: list[int] = [5]) -> None:  # noqa: B006
        left[0] -= 1
        if not left[0]:
            raise Killed

    def start(*callbacks):
        recipe = recipe_from("fedavg", buffer_size=6, over_selection=0.0)
        strategy = AsyncStrategy(recipe, state_folder=tmp_path, callbacks=callbacks)
        strategy.start(virtual_grid(), initial_arrays(), num_rounds=2)

    with pytest.raises(Killed):
        start(die)
    start()
    with open_saved(tmp_path) as saved:
        merged = [u for row in saved.ledger.rows() for u in row.updates if row.version == 1]
    assert len({u.client for u in merged}) == 6 == len(merged)


def test_two_processes_cannot_use_one_folder(tmp_path):
    with open_saved(tmp_path), pytest.raises(StorageFailed, match="STATE_IN_USE"):
        FedBuff(buffer_size=3, state_folder=tmp_path).start(
            virtual_grid(), initial_arrays(), num_rounds=1
        )


@pytest.mark.parametrize("blocked", ["folder", "folder/lock/x"])
def test_a_state_folder_that_cannot_be_used_is_named_by_code(tmp_path, blocked):
    in_the_way = tmp_path / blocked
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.touch()
    strategy = FedBuff(buffer_size=3, state_folder=tmp_path / "folder")
    with pytest.raises(StorageFailed, match=r"JOURNAL_FAILED: .*/folder"):
        strategy.start(virtual_grid(), initial_arrays(), num_rounds=1)


def test_another_model_or_recipe_is_refused(tmp_path):
    FedBuff(buffer_size=3, state_folder=tmp_path).start(
        virtual_grid(), initial_arrays(), num_rounds=1
    )
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*another recipe: 'fedbuff'"):
        AsyncWA(buffer_size=3, state_folder=tmp_path).start(
            virtual_grid(), initial_arrays(), num_rounds=1
        )


def test_a_confidential_run_that_is_kept_needs_a_name(tmp_path):
    with pytest.raises(ConfigInvalid, match="needs a run_name"):
        AsyncWA(state_folder=tmp_path, gateway=tmp_path / "bundle.json")
