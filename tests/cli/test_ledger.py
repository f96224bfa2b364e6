import csv
import io
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from asynclave.cli import app
from fl_protocol.codes import StorageFailed
from fl_server.durable.engine import DurableEngine
from fl_server.durable.folder import LEDGER, connect, open_saved
from strategies.catalog import recipe_from
from strategies.engine import Engine
from strategies.update import ClientUpdate


@pytest.fixture
def folder(tmp_path):
    """A run that was cut off: two versions of three updates, one refused, two waiting."""
    with open_saved(tmp_path) as saved:
        engine = Engine(recipe_from("fedbuff", buffer_size=3), np.zeros(5, np.float32))
        durable = DurableEngine(engine, saved, {"recipe": "fedbuff"})
        for number in range(1, 10):
            value = np.nan if number == 4 else number
            delta = np.full(5, value, np.float32)
            durable.offer(
                ClientUpdate(f"node-{number}", durable.version, delta, 10, f"u{number}"), number
            )
            if durable.ready(number):
                durable.merge(number)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, ["ledger", *map(str, arguments)])


def test_show_adds_up_to_what_was_acknowledged(folder):
    shown = json.loads(call("show", folder, "--json").output)
    assert shown["outcomes"] == {"NONFINITE": 1, "merged": 6, "waiting": 2}
    assert (shown["received"], shown["lost"], shown["version"]) == (9, 0, 2)
    text = call("show", folder).output
    assert "recipe: fedbuff" in text and "waiting" in text


def test_verify_says_that_it_holds_and_touches_nothing(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = call("verify", folder)
    assert found.exit_code == 0 and "verified" in found.output
    assert {p: p.read_bytes() for p in before} == before


def test_verify_works_while_the_run_goes_on(folder):
    with open_saved(folder):
        assert call("verify", folder).exit_code == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rows SET content = replace(content, 'node-2', 'node-7')",
        "DELETE FROM rows WHERE number = 1",
        "DELETE FROM updates WHERE update_id = 'u2'",
        "UPDATE updates SET outcome = 'accepted'",
        "UPDATE rows SET version = 5 WHERE number = 2",
    ],
)
def test_verify_finds_what_was_altered(folder, statement):
    database = connect(folder / LEDGER)
    database.execute(statement)
    database.close()
    with pytest.raises(StorageFailed, match="LEDGER_DAMAGED"):
        CliRunner().invoke(app, ["ledger", "verify", str(folder)], catch_exceptions=False)


def test_export_names_every_update_of_the_ledger(folder):
    lines = [json.loads(line) for line in call("export", folder).output.splitlines()]
    assert [line["update_id"] for line in lines] == ["u1", "u2", "u3", "u5", "u6", "u7", "u4"]
    assert lines[0]["version"] == 1 and lines[-1]["version"] is None
    assert lines[0]["weight"] == pytest.approx(1 / 3)
    output = folder / "updates.csv"
    assert call("export", folder, "--format", "csv", "--output", output).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [row["update_id"] for row in rows] == [line["update_id"] for line in lines]


def test_a_folder_without_a_run_is_one_clear_error(tmp_path):
    with pytest.raises(StorageFailed, match="holds no saved run"):
        CliRunner().invoke(app, ["ledger", "show", str(tmp_path)], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
