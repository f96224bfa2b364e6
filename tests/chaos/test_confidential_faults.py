"""The confidential path under simulated faults, and whether the worlds would notice a mistake."""

from __future__ import annotations

from dataclasses import fields
from itertools import count

import pytest
from typer.testing import CliRunner

from asynclave.cli import app
from fl_sim.faults.confidential.mutants import CONFIDENTIAL_MUTANTS
from fl_sim.faults.confidential.rates import ConfidentialRates
from fl_sim.faults.confidential.world import ConfidentialWorld
from fl_sim.faults.mutants import planted

# Much goes wrong, so that a bug shows soon.
_HARSH = ConfidentialRates(
    crash=0.002,
    full=0.003,
    failing=0.002,
    enclave=0.02,
    lose_reply=0.05,
    repeat=0.1,
    old_token=0.15,
    used_ticket=0.5,
    corrupt=0.1,
)
_HARSH_HOURS, _MOST_SEEDS = 0.25, 10


@pytest.mark.parametrize("first", [0, 2])
def test_nothing_is_lost_counts_twice_or_lies_open(first: int) -> None:
    for seed in range(first, first + 2):
        report = ConfidentialWorld(seed, 0.5).run()
        assert not report.violation, f"seed {seed}: {report.violation}"
        assert report.replayed >= report.versions > 0


@pytest.mark.parametrize("name", CONFIDENTIAL_MUTANTS)
def test_every_planted_bug_is_found(name: str) -> None:
    for seed in count():
        assert seed < _MOST_SEEDS, f"{name} went unseen"
        with planted(name, CONFIDENTIAL_MUTANTS):
            report = ConfidentialWorld(seed, _HARSH_HOURS, _HARSH).run()
        if report.violation:
            return


@pytest.mark.parametrize("seed", range(_MOST_SEEDS))
def test_where_bugs_are_found_nothing_is_wrong_without_them(seed: int) -> None:
    report = ConfidentialWorld(seed, _HARSH_HOURS, _HARSH).run()
    assert not report.violation, report.violation
    if seed < 2:
        # In a quarter of an hour, not everything happens that may happen once in ten minutes.
        seldom = {"rotation", "clock_step"}
        assert report.faults.keys() >= {rate.name for rate in fields(_HARSH)} - seldom


def test_a_seed_decides_everything() -> None:
    first, second = ConfidentialWorld(3, 0.1).run(), ConfidentialWorld(3, 0.1).run()
    assert vars(first) == vars(second)
    assert ConfidentialWorld(4, 0.1).run().events != first.events


def test_the_command_tells_how_to_replay_a_confidential_failure(tmp_path) -> None:
    options = ["--minutes", "3", "--workers", "1", "--output", str(tmp_path / "failures.jsonl")]
    mutant = ["--confidential", "--mutant", "open-outbox"]
    broken = CliRunner().invoke(app, ["chaos", "sim", "--seeds", "1", *mutant, *options])
    assert broken.exit_code == 1
    assert "--minutes 3 --mutant open-outbox --confidential" in " ".join(broken.output.split())
