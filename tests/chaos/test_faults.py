from __future__ import annotations

import json
from itertools import count

import pytest
from typer.testing import CliRunner

from asynclave.cli import app
from fl_sim.faults.chance import Rates
from fl_sim.faults.mutants import MUTANTS, planted
from fl_sim.faults.world import World

_MOST_SEEDS = 60
_HOURS = 1.0


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_nothing_is_lost_and_nothing_counts_twice(first: int) -> None:
    for seed in range(first, first + 10):
        report = World(seed, _HOURS).run()
        assert not report.violation, f"seed {seed}: {report.violation}"
        assert report.replayed == report.versions > 0


@pytest.mark.parametrize("name", MUTANTS)
def test_every_planted_bug_is_found(name: str) -> None:
    for seed in count():
        assert seed < _MOST_SEEDS, f"{name} went unseen"
        with planted(name):
            report = World(seed, _HOURS).run()
        if report.violation:
            # The very same world without the bug is in order.
            assert not World(seed, _HOURS).run().violation
            return


@pytest.mark.parametrize("seed", [3, 4])
def test_a_seed_decides_everything(seed: int) -> None:
    first, second = World(seed, 0.5).run(), World(seed, 0.5).run()
    assert vars(first) == vars(second)
    assert World(seed + 5, 0.5).run().events != first.events


def test_every_fault_strikes() -> None:
    struck: set[str] = set()
    for seed in range(30):
        struck |= World(seed, _HOURS).run().faults.keys()
    assert struck == set(vars(Rates()))


def test_a_world_without_faults_is_the_run_of_its_recipe() -> None:
    calm = Rates(**dict.fromkeys(vars(Rates()), 0.0))
    report = World(1, _HOURS, calm).run()
    assert (report.violation, report.crashes, report.faults) == ("", 0, {})
    # 6 nodes that take about half a minute each, and nothing in between.
    assert report.updates > 300
    assert report.acknowledged >= report.updates - 6 * 4


@pytest.mark.parametrize("minutes", ["nan", "inf"])
@pytest.mark.parametrize("kind", ["sim", "real"])
def test_faults_that_would_never_end_are_refused(kind: str, minutes: str) -> None:
    refused = CliRunner().invoke(app, ["chaos", kind, "--minutes", minutes])
    assert refused.exit_code == 2
    assert "a finite number is needed" in refused.output


def test_the_command_counts_and_tells_how_to_replay_a_failure(tmp_path) -> None:
    failures = tmp_path / "failures.jsonl"
    options = ["--minutes", "20", "--workers", "1", "--output", str(failures), "--json"]
    calm = CliRunner().invoke(app, ["chaos", "sim", "--seeds", "2", *options])
    assert calm.exit_code == 0
    summary = json.loads(calm.stdout)
    assert (summary["seeds"], summary["broken"]) == (2, [])
    assert not failures.exists()

    mutant = ["--mutant", "shown-before-written"]
    broken = CliRunner().invoke(app, ["chaos", "sim", "--seeds", "1", *mutant, *options])
    assert broken.exit_code == 1
    assert "--seeds 1 --first-seed 0 --minutes 20 --mutant shown-before-written" in " ".join(
        broken.output.split()
    )
    assert json.loads(failures.read_text())["violation"].startswith("I7")
