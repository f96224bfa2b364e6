"""The comparison with other simulators: equal jobs, honest counting, nothing left out silently."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.peers import __main__ as compare
from benchmarks.peers import driver, jobs, processes, report
from benchmarks.peers.contenders import OURS, OURS_ON_ALL_CORES, Contender, DriverFailed
from benchmarks.peers.network import network


@pytest.mark.parametrize(("name", "parameters"), [("mlp", 50_890), ("logistic", 7_850)])
def test_the_module_of_the_peers_is_the_model_of_the_job(name: str, parameters: int) -> None:
    job, model = jobs.JOBS[name], network(name)
    assert job.parameters == sum(p.numel() for p in model.parameters()) == parameters
    inputs, labels = map(torch.from_numpy, jobs.training_data())
    loss = cross_entropy(model(inputs), labels).item()
    assert jobs.training_loss(jobs.initial_weights(job)) == pytest.approx(loss, rel=1e-5)


def test_every_client_holds_five_batches_of_its_own() -> None:
    assert jobs.STEPS == 5
    parts = [jobs.client_data(client)[0] for client in range(jobs.CLIENTS)]
    assert {part.shape for part in parts} == {(80, 784)}
    assert sum(map(len, parts)) == len(jobs.training_data()[0])


def test_our_driver_trains_the_job() -> None:
    figures = dataclasses.replace(OURS, warm_up=100, updates=400).run("logistic")
    before, warm, after = figures["losses"]
    assert before > warm > after
    assert figures["cpu_ms"] > 0


class _Idle:
    def train(self, updates: int) -> None:
        pass

    def weights(self) -> list[jobs.Floats]:
        return jobs.initial_weights(jobs.JOBS["logistic"])


def test_a_simulator_that_trains_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    options = Namespace(job="logistic", warm_up=20, updates=20)
    with pytest.raises(SystemExit, match="does not learn"):
        driver.measure(options, "0", lambda job: _Idle())
    assert capsys.readouterr().out == ""


def test_a_peer_that_is_not_installed_says_so(tmp_path: Path) -> None:
    with pytest.raises(DriverFailed, match="not installed: run make peers"):
        Contender("peer", tmp_path / "bin" / "python", "pfl", 20).run("mlp")


def test_the_comparison_goes_on_without_a_missing_peer(tmp_path: Path) -> None:
    ours = dataclasses.replace(OURS, warm_up=20, updates=20)
    missing = Contender("peer", tmp_path / "bin" / "python", "pfl", 20)
    simulators = compare.measure([ours, missing], ["logistic"], 1)["logistic"]["simulators"]
    assert simulators["peer"] == {"problem": "not installed: run make peers"}
    assert simulators[OURS.name]["version"]


def test_two_seeds_side_by_side_do_the_same_job() -> None:
    figures = dataclasses.replace(OURS_ON_ALL_CORES, warm_up=200, updates=400).run("logistic")
    one = dataclasses.replace(OURS, warm_up=100, updates=200).run("logistic")
    assert figures["losses"] == one["losses"]


def test_a_driver_that_breaks_is_reported_with_its_last_words() -> None:
    with pytest.raises(DriverFailed, match="unrecognized arguments: --nonsense"):
        dataclasses.replace(OURS, options=("--nonsense",)).run("mlp")


def test_ratios_are_those_of_the_medians() -> None:
    def rounds(cpu_ms: list[float], speed: float) -> list[dict[str, object]]:
        fixed = {"version": "1", "updates_per_second": speed, "losses": [3.0, 2.0, 1.0]}
        return [{"cpu_ms": value, **fixed} for value in cpu_ms]

    figures = {
        "ours": rounds([0.5, 9.0, 0.4], 2000.0),
        "both": rounds([0.5], 3800.0),
        "peer": rounds([5.0, 1.0, 6.0], 100.0),
    }
    medians = report.summary(figures, "ours", "both")
    assert medians["ours"]["cpu_ms"] == 0.5
    assert medians["peer"]["cpu_times_ours"] == 10.0
    assert medians["peer"]["wall_times_ours"] == 20.0
    assert medians["peer"]["wall_times_ours_on_all_cores"] == 38.0


def test_the_table_names_a_peer_that_did_not_run() -> None:
    simulators = {"pfl": {"problem": "not installed: run make peers"}}
    lines = list(report.table({"jobs": {"mlp": {"simulators": simulators}}}))
    assert "pfl | not installed: run make peers" in lines[-1]


_BURN = """
import subprocess, sys, time
if sys.argv[1:]:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
while time.process_time() < 0.2: pass
print("burnt", flush=True)
time.sleep(60)
"""


def test_cpu_time_is_that_of_the_whole_tree() -> None:
    command = [sys.executable, "-c", _BURN, _BURN]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline(), parent.stdout.readline()] == [b"burnt\n", b"burnt\n"]
        (child,) = processes.descendants(parent.pid)
        alone = processes.tree_cpu_seconds(child)
        assert alone > 0.15
        assert processes.tree_cpu_seconds(parent.pid) >= alone + 0.15
        for pid in (child, parent.pid):
            subprocess.run(["kill", str(pid)], check=True)


def test_what_a_driver_leaves_running_is_ended() -> None:
    script = (
        "import json, os, subprocess\n"
        "from benchmarks.peers.processes import adopt_orphans, descendants, end_descendants\n"
        "adopt_orphans()\n"
        "subprocess.run(['sh', '-c', 'sleep 60 & exit'])\n"
        "before = len(descendants(os.getpid()))\n"
        "end_descendants()\n"
        "print(json.dumps([before, len(descendants(os.getpid()))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(done.stdout) == [1, 0]
