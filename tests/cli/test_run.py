import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from asynclave.verification.audit import audit

SMALL = """
[devices]
clients = 6
[strategy]
buffer_size = 3
[train]
local_epochs = 1
[run]
merges = 6
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "asynclave", "run", *arguments]


def run(config: Path, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    finished = subprocess.run(
        command("--config", str(config), "--output", str(tmp_path / "runs"), "--json", *arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    summary: dict[str, Any] = json.loads(finished.stdout)
    return summary


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def confidential(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("confidential")
    path = folder / "small.toml"
    path.write_text(SMALL)
    return run(path, folder)


def test_a_confidential_run_computes_the_model_of_the_plain_run(
    confidential: dict[str, Any],
) -> None:
    assert confidential["status"] == "finished"
    assert confidential["versions"] == 6
    assert confidential["updates"] == {"accepted": 18}
    assert confidential["same_digest_without_trust_path"] is True


def test_the_canary_is_nowhere_but_the_search_can_find_it(confidential: dict[str, Any]) -> None:
    canary = confidential["canary"]

    assert canary["found_in"] == []
    assert canary["not_searched"] == []
    assert canary["control"] is True
    assert canary["wire_bytes"] > 18 * 4 * 50_890


def test_the_run_directory_holds_everything_a_reader_needs(confidential: dict[str, Any]) -> None:
    folder = Path(confidential["directory"])

    assert load_file(folder / "model.safetensors")["0.weight"].shape == (64, 784)
    assert json.loads((folder / "config.json").read_text())["devices"]["clients"] == 6
    kinds = [line["kind"] for line in lines(folder / "metrics.jsonl")]
    assert (kinds.count("update"), kinds.count("merge")) == (18, 6)
    for plot in ("accuracy", "staleness", "participation"):
        assert (folder / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert 'src="http' not in page and 'href="http' not in page


def test_a_confidential_run_can_be_verified_offline(confidential: dict[str, Any]) -> None:
    found = audit(Path(confidential["directory"]))

    assert found.flaw is None
    assert (found.accepted, found.releases, found.version) == (18, 6, 6)


def test_no_key_or_state_is_left_in_the_run_directory(confidential: dict[str, Any]) -> None:
    names = [path.name for path in Path(confidential["directory"]).rglob("*")]

    assert not [name for name in names if name.endswith((".key", ".sqlite", ".pem"))]


def test_the_same_seed_gives_the_same_model_and_another_seed_another(
    config: Path, tmp_path: Path, confidential: dict[str, Any]
) -> None:
    again = run(config, tmp_path, "--plain")
    other = run(config, tmp_path, "--plain", "--seed", "2")

    assert again["digest"] == confidential["digest"]
    assert other["digest"] != confidential["digest"]


def killed_after(merges: int, config: Path, tmp_path: Path, *arguments: str) -> Path:
    """Start a run, kill it without warning once it has merged so often, return its directory."""
    output = tmp_path / "runs"
    process = subprocess.Popen(
        command("--config", str(config), "--output", str(output), "--json", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = []
    while len(found) < merges:
        assert process.poll() is None
        text = "".join(path.read_text() for path in output.glob("*/metrics.jsonl"))
        found = [line for line in text.splitlines() if '"kind": "merge"' in line]
        time.sleep(0.01)
    process.kill()
    process.wait()
    (directory,) = output.iterdir()
    return directory


def resumed(directory: Path) -> dict[str, Any]:
    finished = subprocess.run(
        command("--resume", str(directory), "--json"), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    summary: dict[str, Any] = json.loads(finished.stdout)
    return summary


def test_a_killed_plain_run_continues_from_its_newest_version(config: Path, tmp_path: Path) -> None:
    config.write_text(SMALL.replace("merges = 6", "merges = 60"))
    directory = killed_after(5, config, tmp_path, "--plain")
    before = lines(directory / "metrics.jsonl")

    summary = resumed(directory)

    assert (summary["status"], summary["resumed"], summary["versions"]) == ("finished", True, 60)
    after = lines(directory / "metrics.jsonl")
    assert after[: len(before)] == before
    merges = [line for line in after if line["kind"] == "merge"]
    assert len({line["version"] for line in merges}) == len(merges)
    assert [line["time"] for line in merges] == sorted(line["time"] for line in merges)
    shown = subprocess.run(
        [sys.executable, "-m", "asynclave", "ledger", "verify", str(directory / "state"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    accounts = json.loads(shown.stdout)
    assert (accounts["verified"], accounts["lost"], accounts["version"]) == (True, 0, 60)
    assert accounts["outcomes"]["merged"] == 180
    again = subprocess.run(command("--resume", str(directory)), capture_output=True, check=False)
    assert again.returncode == 2 and b"has finished" in again.stderr


def test_a_killed_confidential_run_continues_from_its_newest_version(
    config: Path, tmp_path: Path
) -> None:
    config.write_text(SMALL.replace("merges = 6", "merges = 20"))
    directory = killed_after(5, config, tmp_path)

    summary = resumed(directory)

    assert (summary["status"], summary["resumed"], summary["versions"]) == ("finished", True, 20)
    assert summary["canary"]["passed"] and summary["same_digest_without_trust_path"] is None
    found = audit(directory)
    assert (found.flaw, found.version) == (None, 20)
    assert len(found.enclaves) == 2
    assert not (directory / "state").exists()


def test_flags_change_the_run(config: Path, tmp_path: Path) -> None:
    summary = run(
        config, tmp_path, "--plain", "--merges", "2", "--clients", "4", "--strategy", "fedbuff"
    )

    assert (summary["versions"], summary["strategy"]) == (2, "fedbuff")


def test_fedasync_is_refused_in_confidential_mode_and_runs_plain(
    config: Path, tmp_path: Path
) -> None:
    refused = subprocess.run(
        command("--config", str(config), "--strategy", "fedasync", "--output", str(tmp_path / "r")),
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode == 2
    assert "LEAKY_RECIPE" in refused.stderr
    assert not (tmp_path / "r").exists()
    assert run(config, tmp_path, "--plain", "--strategy", "fedasync")["status"] == "finished"


@pytest.mark.parametrize(
    "setting", [("--clients", "0"), ("--merges", "3"), ("--seed", "0"), ("--plain",)]
)
def test_a_run_is_continued_as_it_was_begun(setting: tuple[str, ...]) -> None:
    refused = subprocess.run(
        command("--resume", "none", *setting), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "without other settings" in refused.stderr


def test_a_wrong_configuration_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[run]\nmergers = 3\n")

    refused = subprocess.run(
        command("--config", str(path)), capture_output=True, text=True, check=False
    )

    assert refused.returncode == 2
    assert refused.stderr.startswith("CONFIG_INVALID: run.mergers")
    assert "Traceback" not in refused.stderr


def descendants(root: int) -> set[int]:
    """Return the process ids below `root`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found = {root}
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return found - {root}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_readable_report_and_no_process(
    config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    endless = command("--config", str(config), "--merges", "100000")
    process = subprocess.Popen(
        # A shell's background job, as these tests may be, ignores SIGINT and hands that on.
        ["env", f"--default-signal={number.name}", *endless, "--output", str(tmp_path / "runs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/metrics.jsonl")) or (
        '"merge"' not in next(tmp_path.glob("runs/*/metrics.jsonl")).read_text()
    ):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)

    started = descendants(process.pid)
    assert len(started) == 4, "gateway, launcher, enclave and wire"
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 130, output
    folder = next(tmp_path.glob("runs/*"))
    assert f"To go on: asynclave run --resume {folder}" in output.splitlines()
    assert "interrupted" in (folder / "report.html").read_text()
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


def test_private_run_ends_when_its_budget_is_spent(tmp_path: Path) -> None:
    config = tmp_path / "private.toml"
    # one release per client: two versions of three clients each
    config.write_text(
        SMALL.replace("[strategy]", '[strategy]\nname = "fedbuff"')
        + "baseline = false\n[trust.dp]\nclip = 1.0\nnoise_multiplier = 1.0\nmax_epsilon = 5.0\n"
    )
    finished = subprocess.run(
        command("--config", str(config), "--output", str(tmp_path / "runs")),
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join((finished.stdout + finished.stderr).split())
    assert finished.returncode != 0
    assert "DP_BUDGET: The privacy budget is spent after version" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert audit(folder).releases in (1, 2)
