"""The figures' scripts on tiny configurations, with real runs."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from experiments import ablation, cache_cost, concurrency, scaling, staleness, tuning, utilisation
from experiments.common import HERE, Results, Sections, median_time, simulate_cases
from fl_sim.simulation.config import load_config
from fl_sim.simulation.result import SimulationResult
from strategies.catalog import RECIPES, recipe_from

TINY = """
[devices]
clients = 12
sigma = 0.5
[train]
model = "logistic"
backend = "numpy"
local_steps = 2
[run]
virtual_time = 10.0
target_accuracy = 0.25
evaluate_every = 0.5
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return path


def run(tiny: Path, cases: dict[str, Sections]) -> Results:
    return simulate_cases(tiny, cases, tiny.with_suffix(".jsonl"), seeds=2)


def columns(rows: list[str]) -> set[int]:
    return {row.count("|") for row in rows if row.startswith("|")}


@pytest.mark.parametrize("name", ["concurrency", "staleness", "utilisation"])
def test_the_configuration_beside_a_script_is_valid(name: str) -> None:
    load_config(HERE / f"{name}.toml")


def test_finished_cases_are_not_simulated_again(tiny: Path) -> None:
    cases = {"fedbuff": {"strategy": {"name": "fedbuff"}}}
    first = run(tiny, cases)
    again = run(tiny, cases)
    assert again["fedbuff"].summary() == first["fedbuff"].summary()
    assert len(tiny.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_the_setting_chosen_for_a_recipe_is_the_best_of_those_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "regimes").mkdir()
    for name, lr in (("steep", 0.1), ("flat", 0.02)):
        config = TINY.replace("[train]", f"[train]\nlr = {lr}")
        (tmp_path / "regimes" / f"{name}.toml").write_text(config, encoding="utf-8")
    monkeypatch.setattr(tuning, "HERE", tmp_path)
    scored: dict[int, list[float]] = {}

    def noted(result: SimulationResult) -> float:
        # Two regimes, one after the other, for each setting.
        call = sum(map(len, scored.values()))
        scored.setdefault(call // 2, []).append(score(result))
        return scored[call // 2][-1]

    score = tuning.score
    monkeypatch.setattr(tuning, "score", noted)
    best = tuning.best_of("fedasync", ("steep", "flat"), tmp_path, seeds=1)
    settings = list(tuning.candidates("fedasync"))
    assert settings[0] == {}
    assert len(scored) == len(settings)
    assert best == settings[max(scored, key=lambda number: sum(scored[number]))]
    assert len({tuple(scores) for scores in scored.values()}) == len(settings)


def test_every_recipe_but_ours_has_a_setting_that_is_valid() -> None:
    chosen = tuning.rivals()
    assert chosen.keys() == RECIPES.keys() - {"async-wa"}
    for name, options in chosen.items():
        assert recipe_from(name, **options).name == name


def test_concurrency_keeps_as_many_at_work_as_a_synchronous_round_asks(tiny: Path) -> None:
    found = {
        concurrency.concurrency_of(size): run(tiny, concurrency.cases_of(size)) for size in (2, 4)
    }
    assert list(found) == [3, 6]
    rows = list(concurrency.table_of(found))
    assert columns(rows) == {7}
    synchronous = [median_time(found[6][name]) for name in concurrency.SYNCHRONOUS]
    faster = min(synchronous) / median_time(found[6]["fedbuff"])
    assert 0 < concurrency.speed_up(found[6], "fedbuff") == faster
    assert f"{faster:.1f} times |" in next(row for row in rows if "| 6 | fedbuff" in row)


def test_staleness_compares_each_function_at_the_mixing_weight_that_suits_it(tiny: Path) -> None:
    sweep = {
        mixing: run(tiny, staleness.cases_of(mixing, slow_hold_rare=True))
        for mixing in (0.001, 0.5)
    }
    assert staleness.best_mixing(sweep, "constant") == 0.5
    digests = {tuple(r.digest for r in found.runs) for found in sweep[0.5].values()}
    assert len(digests) == 3
    rows = list(staleness.sections_of({"a fleet": sweep}))
    assert columns(rows) == {6}
    assert sum("(best)" in row for row in rows) == 3


def test_utilisation_counts_how_every_task_ended(tiny: Path) -> None:
    devices = {"dropout": 0.2, "sigma": 0.5}
    cases = utilisation.cases_of(devices)
    cases["fedavg, first 46"] = {
        "strategy": {"name": "fedavg", "options": {"fedavg": {"buffer_size": 5}}},
        "devices": devices,
    }
    results = run(tiny, cases)
    late = utilisation.success_of(results["fedavg, first 46"])
    ours = utilisation.success_of(results["async-wa"])
    assert 0 < late.used < late.used_retried < 1.0
    assert late.used < late.completed
    assert ours.used == ours.completed < ours.used_retried == 1.0
    assert 0.9 < utilisation.utilisation_of(results["async-wa"]) < 1.001
    rows = list(utilisation.spreads_of({1.0: results}))
    assert columns(rows) == {8}
    assert columns(list(utilisation.faults_of({"dropout 20 %": results}))) == {10}


def test_utilisation_puts_the_measured_beside_the_aims(tiny: Path) -> None:
    devices = {"dropout": 0.2, "sigma": 0.5}
    results = run(tiny, utilisation.cases_of(devices))
    rows = list(utilisation.aims_of({0.5: results}, {"dropout 10 %": results}))
    assert columns(rows) == {4}
    share = re.search(r"97 %.*: used \| ([\d.]+)%", "\n".join(rows))
    assert share is not None
    used = 100 * utilisation.success_of(results["async-wa"]).used
    assert math.isclose(float(share.group(1)), used, abs_tol=0.06)


def test_scaling_measures_what_is_missing_once_and_tabulates_medians(tmp_path: Path) -> None:
    config = {"clients": [20, 40], "in_flight": ["10 %"], "updates": 40, "repeats": 1}
    results = tmp_path / "scaling.jsonl"
    rows = scaling.measured(config, results)
    assert [(row["clients"], row["in_flight"]) for row in rows] == [(20, 2), (40, 4)]
    assert scaling.measured(config, results) == rows
    series = scaling.series_of(config, rows)
    assert series["10 %"][20].cpu_ms == rows[0]["cpu_ms_per_update"] > 0
    assert series["10 %"][20].peak_mib > 50
    table = list(scaling.table_of(series))
    assert columns(table) == {8}
    assert "| 20 |" in table[0] and "| 1.00 |" in table[0]


def test_cache_cost_draws_every_kind_of_cache_from_its_worst_to_its_best_seed(tiny: Path) -> None:
    by_kind = run(
        tiny,
        {
            kind: {"strategy": {"name": "ca2fl", "options": {"ca2fl": {"cache": kind}}}}
            for kind in cache_cost.KINDS
        },
    )
    axes = cache_cost.figure_of({"tiny": {"ca2fl": by_kind}}).axes[0]

    finals = [[each.final_accuracy for each in result.runs] for result in by_kind.values()]
    (dots, _, (bars,)) = axes.containers[0]
    assert list(dots.get_ydata()) == pytest.approx([sum(pair) / 2 for pair in finals])
    for segment, pair in zip(bars.get_segments(), finals, strict=True):
        assert sorted(segment[:, 1]) == pytest.approx(sorted(pair))
    assert [text.get_text().split("\n")[0] for text in axes.get_xticklabels()] == list(
        cache_cost.KINDS
    )


def test_ablation_compares_every_variant_with_the_whole(tiny: Path) -> None:
    results = run(tiny, ablation.cases())
    rows = list(ablation.table_of({"tiny": results}))

    assert list(results) == list(ablation.VARIANTS)
    assert ablation.over_run(results, ablation.WHOLE) == 0
    for label in list(results)[1:]:
        (summary,) = (row for row in rows if row.startswith(f"| {label} ") and "tiny" in row)
        assert f"{ablation.over_run(results, label):+.1f}" in summary
    table = rows[rows.index("## tiny") :]
    assert len(columns(table)) == 1
    assert len(table) == 2 + 2 + len(results) + 1
