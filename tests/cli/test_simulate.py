import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
TUTORIAL = Path(ROOT) / "docs" / "tutorials" / "own-recipe.md"

SMALL = """
[devices]
clients = 6
[train]
model = "logistic"
local_steps = 2
[run]
virtual_time = 2.0
target_accuracy = 0.3
"""


def simulate(folder: Path, *arguments: str, text: str = SMALL) -> subprocess.CompletedProcess[str]:
    config, output = folder / "small.toml", folder / "out"
    config.write_text(text)
    command = [sys.executable, "-m", "asynclave", "simulate", "--config", str(config)]
    command += ["--output", str(output), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": ROOT}
    )


def test_the_last_line_is_one_object_and_a_second_call_finds_the_results(tmp_path: Path) -> None:
    first = simulate(tmp_path, "--strategy", "fedasync", "--seeds", "2", "--json")
    again = simulate(tmp_path, "--strategy", "fedasync", "--seeds", "2", "--json")

    assert first.returncode == 0, first.stderr
    told = [line.partition(", ")[0] for line in first.stderr.splitlines()]
    assert told == ["fedasync: seed 1", "fedasync: seed 2"] and again.stderr == ""
    summary = json.loads(first.stdout.splitlines()[-1])
    assert summary["strategy"] == "fedasync"
    assert summary["seeds"] == [1, 2]
    assert len(summary["digest"]) == 2
    assert json.loads(again.stdout.splitlines()[-1]) == summary
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2
    assert len(list((tmp_path / "out").glob("accuracy-*.png"))) == 1


def test_a_seed_that_ends_early_is_told_of_as_well(tmp_path: Path) -> None:
    done = simulate(tmp_path, "--seeds", "1", text=SMALL + "max_updates = 3\n")
    assert [line.partition(", ")[0] for line in done.stderr.splitlines()] == ["async-wa: seed 1"]


@pytest.mark.parametrize(
    ("option", "code"), [("--strategy", "UNKNOWN_RECIPE"), ("--dispatch", "UNKNOWN_POLICY")]
)
def test_an_unknown_name_is_one_clear_line(tmp_path: Path, option: str, code: str) -> None:
    refused = simulate(tmp_path, option, "fedmagic")
    assert refused.returncode == 2
    assert f"{code}: " in refused.stderr
    assert "'fedmagic'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_output_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    refused = simulate(tmp_path, "--output", "a" * 300)
    assert refused.returncode == 2
    assert "CONFIG_INVALID: run.output: " in refused.stderr and "too long" in refused.stderr
    assert simulate(tmp_path, "--seeds", "1").returncode == 0
    (picture,) = (tmp_path / "out").glob("*.png")
    picture.unlink()
    picture.mkdir()
    refused = simulate(tmp_path, "--seeds", "3")
    assert refused.returncode == 2
    assert "CONFIG_INVALID: run.output: " in refused.stderr and "is a folder" in refused.stderr


def test_refused_updates_are_named_on_stderr(tmp_path: Path) -> None:
    diverging = SMALL.replace("[train]", "sigma = 0.0\n[train]\nlr = 1e6\nweight_decay = 1e3")
    done = simulate(tmp_path, "--json", text=diverging.replace("_steps = 2", "_steps = 20"))
    assert done.returncode == 0
    assert set(json.loads(done.stdout)["outcomes"]) == {"NONFINITE"}
    assert "seed 5: 6 of 6 updates were refused. NONFINITE (6): " in done.stderr


def test_what_looks_like_markup_is_printed_as_it_is(tmp_path: Path) -> None:
    refused = simulate(tmp_path, "--strategy", "[/bold]x[red]")
    assert refused.returncode == 2
    assert "'[/bold]x[red]'" in refused.stderr
    folder = tmp_path / "[red]"
    folder.mkdir()
    done = simulate(folder, "--seeds", "1")
    assert done.returncode == 0
    assert "[red]/out/results.jsonl" in done.stdout


def test_a_recipe_of_ones_own_is_named_by_module_and_class(tmp_path: Path) -> None:
    whole = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    module = tmp_path / "halving.py"
    module.write_text("\n".join(whole[:2]))
    command = ["--strategy", "halving:Halving", "--seeds", "2", "--workers", "2", "--json"]

    first = simulate(tmp_path, *command)
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert summary["strategy"] == "halving:Halving"
    assert json.loads(simulate(tmp_path, *command).stdout) == summary

    module.write_text(module.read_text().replace("buffer_size: int = 3", "buffer_size: int = 1"))
    changed = json.loads(simulate(tmp_path, *command).stdout)
    assert changed["digest"] != summary["digest"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere:Rule", "ModuleNotFoundError: No module named 'nowhere'"),
        ("rules:Missing", "AttributeError"),
        ("rules:broken", "no recipe"),
        ("rules:", "AttributeError"),
        (":Rule", "ValueError"),
    ],
)
def test_what_is_no_recipe_is_one_clear_line(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "rules.py").write_text("broken = 1\n")
    refused = simulate(tmp_path, "--strategy", name)
    assert refused.returncode == 2
    assert "UNKNOWN_RECIPE: " in refused.stderr
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr
