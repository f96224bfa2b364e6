"""The code on the page about simulations runs as it is printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fl_sim.simulation.config import SimulationConfig, load_config
from tests.support.federation import accuracy_of, client_app, initial_arrays

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "simulation.md"


def test_a_task_of_ones_own_runs_as_printed() -> None:
    (code,) = re.findall(r"```python\n([^`]*ClientTask.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)

    summary = names["result"].summary()

    assert summary["strategy"] == "fedbuff"
    assert summary["time_to_target"]["reached"] == 2
    assert summary["final_accuracy"]["mean"] > 0.85


def test_the_example_configuration_says_the_defaults() -> None:
    assert load_config(ROOT / "experiments" / "simulation.toml") == SimulationConfig()


def test_the_example_configuration_lists_every_key() -> None:
    text = (ROOT / "experiments" / "simulation.toml").read_text()
    listed = set(re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE))
    for section in SimulationConfig.model_fields:
        keys = set(type(getattr(SimulationConfig(), section)).model_fields)
        assert keys - listed <= {"options"}


def test_an_app_of_ones_own_runs_on_the_devices_of_a_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = ModuleType("my_app")
    app.app, app.arrays = client_app(), initial_arrays()
    monkeypatch.setitem(sys.modules, "my_app", app)
    (code,) = re.findall(r"```python\n([^`]*my_app.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, object] = {}

    exec(compile(code, str(PAGE), "exec"), page)

    tasks, online = re.findall(r"([\d.]+) median tasks, (\d+) online", capsys.readouterr().out)[0]
    assert float(tasks) > 1
    assert 0 < int(online) < 20
    assert accuracy_of(page["result"].arrays) > accuracy_of(app.arrays) + 0.2
