from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from asynclave.deployment import Deployment
from asynclave.deployment.commands import down_command, up_command
from asynclave.deployment.control import find
from asynclave.deployment.processes import program_path
from fl_protocol.codes import ConfigInvalid
from tests.deployment.conftest import QUICKSTART, SLOW_NODE


def command_line() -> typer.Typer:
    app = typer.Typer()
    app.command("up")(up_command)
    app.command("down")(down_command)
    return app


def test_down_says_when_there_is_nothing_to_stop(tmp_path: Path) -> None:
    result = CliRunner().invoke(command_line(), ["down", "--state-dir", str(tmp_path)])
    assert result.exit_code == 0
    assert result.output == "Nothing to stop.\n"


def test_up_refuses_an_app_that_is_none_before_it_starts_anything(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ["--state-dir", str(state), "--app", str(tmp_path / "nowhere")]
    result = CliRunner().invoke(command_line(), ["up", *options])
    assert isinstance(result.exception, ConfigInvalid)
    assert "nowhere is no Flower app" in result.exception.sentence
    assert not state.exists()


@pytest.mark.deployment
def test_up_names_the_app_so_that_its_command_works_in_any_folder(
    confidential: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = confidential.state.root
    options = ["up", "--state-dir", str(state), "--slow-node", str(SLOW_NODE)]
    monkeypatch.chdir(QUICKSTART.parent)
    named = CliRunner().invoke(command_line(), [*options, "--app", QUICKSTART.name])
    unnamed = CliRunner().invoke(command_line(), options)
    assert f" run {QUICKSTART} " in named.output
    assert " run APP " in unnamed.output


@pytest.mark.deployment
def test_up_prints_a_command_that_works(confidential: Deployment) -> None:
    # given a deployment
    state = confidential.state.root
    options = ["--state-dir", str(state), "--slow-node", str(SLOW_NODE), "--app", str(QUICKSTART)]
    # when
    result = CliRunner().invoke(command_line(), ["up", *options])
    # then
    assert result.exit_code == 0, result.output
    printed = result.output.partition("Run ")[2].strip()
    assert "flwr run" in printed and "asynclave-server-config=" in printed
    # and its environment knows the deployment
    command = printed.replace("flwr run", "flwr supernode list asynclave #", 1)
    path = f"{Path(program_path('flwr')).parent}:{os.environ['PATH']}"
    listing = subprocess.run(
        command, shell=True, env={"PATH": path, "COLUMNS": "200"}, capture_output=True, text=True
    )
    assert listing.returncode == 0, listing.stderr
    assert listing.stdout.count("online") >= 3


@pytest.mark.parametrize("damage", ["", "[]", '{"phase": "ready", "supervisor": 7}'])
def test_a_damaged_status_file_is_named(tmp_path: Path, damage: str) -> None:
    # given
    (tmp_path / "status.json").write_text(damage)
    (tmp_path / "spec.json").write_text("{}")
    # when, then
    with pytest.raises(ConfigInvalid, match=r"status\.json"):
        find(tmp_path)
