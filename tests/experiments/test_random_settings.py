"""Settings drawn at random: valid, ever the same, and compared setting by setting."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from experiments import random_settings
from experiments.common import Results, median_time
from experiments.time_to_accuracy import OURS, comparison, versus_others
from fl_sim.simulation.config import load_config
from fl_sim.simulation.sweep import simulate

CURVES = {
    OURS: [0.1, 0.5, 0.77, 0.9],
    "fedbuff": [0.1, 0.2, 0.5, 0.8],
    "fedbuff, tuned": [0.1, 0.3, 0.76, 0.7],
    "fedasync": [0.1, 0.2, 0.3, 0.4],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder: Path = tmp_path_factory.mktemp("runs")
    sections = {
        "devices": {"clients": 6},
        "train": {"model": "logistic", "backend": "numpy"},
        "run": {"virtual_time": 2.0, "seeds": 1},
    }
    found = {}
    for label, accuracies in CURVES.items():
        name = label.partition(",")[0]
        config = load_config(None, {**sections, "strategy": {"name": name}})
        result = simulate(config, results=folder / "runs.jsonl")
        curve = [(float(time), accuracy) for time, accuracy in enumerate(accuracies)]
        run = replace(result.runs[0], accuracies=curve, final_accuracy=accuracies[-1])
        found[label] = replace(result, runs=(run,))
    return random_settings.timed(found)


def test_settings_are_valid_and_the_same_every_time() -> None:
    drawn = list(islice(random_settings.settings(), 200))
    assert drawn == list(islice(random_settings.settings(), 200))
    assert len(set(map(random_settings.describe, drawn))) > 190
    for sections in drawn:
        load_config(None, sections)


def test_the_target_is_a_share_of_what_the_best_other_recipe_ends_at(results: Results) -> None:
    assert {label: median_time(result) for label, result in results.items()} == {
        OURS: 2.0,
        "fedbuff": 3.0,
        "fedbuff, tuned": 2.0,
        "fedasync": float("inf"),
    }


def test_ours_is_compared_with_the_soonest_and_with_the_most_accurate(results: Results) -> None:
    against = versus_others(results)
    assert (against.ratio, against.soonest) == (1.0, results["fedbuff, tuned"])
    assert against.best is results["fedbuff"]
    assert against.points == pytest.approx([10.0])
    table = comparison({"1: a setting": results}, "setting")
    assert table[2].startswith(
        "| 1: a setting | fedbuff | 1.00 times as soon | 0, 1, 0 | fedbuff |"
    )
    assert table[-1].endswith("0 of 1 settings; another at least 1.15 times as soon: 0.")


def test_each_recipe_is_compared_on_its_own(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_settings, "contenders", lambda: results)
    late = {label: results["fedasync"] for label in results} | {"fedbuff": results["fedbuff"]}
    rows = list(random_settings.recipes_of({"1": results, "2": late}))
    assert rows[2:] == [
        "| async-wa | | | 20.0 |",
        "| fedbuff | 1, 0, 1 | -15.0 (-40.0 to +10.0) | 5.0 |",
        "| fedbuff, tuned | 0, 2, 0 | +10.0 (+0.0 to +20.0) | 30.0 |",
        "| fedasync | 1, 1, 0 | +25.0 (+0.0 to +50.0) | 45.0 |",
    ]


def test_the_figure_has_a_bar_and_a_dot_per_setting(results: Results) -> None:
    left, right = random_settings.figure_of({"1": results, "2": results}).axes
    assert [bar.get_height() for bar in left.patches] == [1.0, 1.0]
    (dots, _, _) = right.containers[0]
    assert list(dots.get_ydata()) == pytest.approx([10.0, 10.0])


def test_settings_that_nothing_was_chosen_on_are_apart(results: Results) -> None:
    found = {str(number): results for number in range(1, 23)}
    fresh, known = random_settings.groups_of(found).items()
    assert fresh == ("Settings that nothing was chosen on", {"21": results, "22": results})
    assert (known[0], len(known[1])) == ("Settings that defaults were chosen on", 20)
    assert list(random_settings.groups_of({"1": results})) == [known[0]]
    assert len(random_settings.figure_of(found).axes[0].patches) == 22
