from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fl_sim
from fl_protocol.codes import ConfigInvalid, StorageFailed
from fl_sim.simulation.result import SeedResult, SimulationResult
from fl_sim.simulation.results_file import append, held, read_results, results_beside
from fl_sim.simulation.sweep import simulate
from strategies.catalog import RECIPES
from tests.support.sweeps import small

OWN = [(1, "before"), (2, "before"), (1, "now")]


def test_the_result_has_the_shape_of_the_command_line() -> None:
    summary = fl_sim.simulate(small()).summary()
    assert list(summary)[:7] == [
        "strategy",
        "seeds",
        "final_accuracy",
        "time_to_target",
        "updates",
        "updates_per_second",
        "digest",
    ]
    assert 0 < summary["fairness"]["mean"] <= 1
    assert summary["seeds"] == [1, 2]
    assert set(summary["final_accuracy"]) == {"mean", "std"}
    assert summary["time_to_target"]["reached"] == 2
    assert 0 < summary["time_to_target"]["median"] <= 3.0
    assert len(set(summary["digest"])) == 2
    assert summary["backend"] == ["numpy"]


def test_times_are_exact_multiples_of_the_interval_and_end_with_the_run() -> None:
    run = {"seeds": 3, "virtual_time": 6.0, "evaluate_every": 0.75}
    for result in simulate(small(run=run)).runs:
        assert [time for time, _ in result.accuracies] == [0.75 * index for index in range(9)]
    ended = {"seeds": 1, "max_updates": 5, "evaluate_every": 0.1}
    (result,) = simulate(small(run=ended)).runs
    *times, last = (time for time, _ in result.accuracies)
    assert times == [0.1 * index for index in range(len(times))]
    assert times[-1] < last <= times[-1] + 0.1


def test_a_sweep_is_of_a_file_or_of_what_was_read_from_it(tmp_path: Path) -> None:
    file, results = tmp_path / "small.toml", tmp_path / "results.jsonl"
    file.write_text("[run]\nseeds = 2\nvirtual_time = 0.5\n")
    config = fl_sim.load_config(str(file))
    assert config == fl_sim.load_config(file) == fl_sim.load_config(config)
    ours = fl_sim.simulate(file, seeds=1, results=str(results))
    assert ours.runs == tuple(read_results(results))
    of_config = fl_sim.simulate(config, strategy="fedbuff", seeds=1)
    (of_file,) = fl_sim.simulate(str(file), strategy="fedbuff", seeds=1).runs
    assert [run.digest for run in of_config.runs] == [of_file.digest]
    assert (ours.strategy, of_file.strategy) == ("async-wa", "fedbuff")
    assert of_file.digest != ours.runs[0].digest


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        ({}, {}, "not dict"),
        (b"small.toml", {}, "not bytes"),
        (None, {"seeds": 0}, "run.seeds"),
        (None, {"strategy": 3}, "strategy.name"),
        ("none.toml", {}, "none.toml cannot be read"),
    ],
)
def test_a_sweep_of_something_else_is_refused(
    config: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        fl_sim.simulate(config, **options)


def test_utilisation_does_not_count_the_time_after_a_death() -> None:
    runs = fl_sim.simulate(small(devices={"death_rate": 1.0})).runs
    assert all(0.95 < run.utilisation < 1.001 for run in runs if run.utilisation is not None)
    assert None not in {run.utilisation for run in runs}


def test_the_digests_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    told = []
    results = tmp_path / "results.jsonl"
    alone = simulate(small())
    parallel = simulate(
        small(run={"workers": 2}),
        results=results,
        on_progress=lambda seed, share, evaluation: told.append((seed, share)),
    )
    assert parallel.summary()["digest"] == alone.summary()["digest"]
    assert {run.seed for run in read_results(results)} == {1, 2}
    assert {seed for seed, share in told if share == 1.0} == {1, 2}


def test_an_error_in_a_worker_ends_the_sweep_with_that_error() -> None:
    # Only a worker makes a trainer when the backend is pinned.
    bad = small(train={"model": "cnn", "backend": "numpy"}, run={"workers": 2})
    with pytest.raises(ConfigInvalid, match="numpy trains"):
        simulate(bad)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_of_the_catalogue_runs(name: str) -> None:
    (run,) = simulate(small(strategy={"name": name}, run={"seeds": 1})).runs
    assert run.updates > 0
    assert run.versions > 0


def test_caches_are_chosen_by_an_option_of_the_recipe(tmp_path: Path) -> None:
    digests = {}
    for kind in ("float32", "disk", "bfloat16", "sketch"):
        strategy = {"name": "async-wa", "options": {"async-wa": {"cache": kind}}}
        run = {"seeds": 1, "cache_folder": tmp_path}
        (digests[kind],) = simulate(small(strategy=strategy, run=run)).summary()["digest"]
    assert digests["disk"] == digests["float32"]
    assert len(set(digests.values())) == 3


def test_a_target_that_most_seeds_miss_has_no_median_time() -> None:
    summary = simulate(small(run={"target_accuracy": 0.999})).summary()
    assert summary["time_to_target"] == {"median": None, "reached": 0}


def test_a_sweep_takes_up_where_it_was_killed(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    whole = simulate(small(), results=results)
    first, second = results.read_text().splitlines(keepends=True)
    results.write_text(first + second[:40])

    done: list[int] = []
    resumed = simulate(
        small(), results=results, on_progress=lambda seed, share, _: done.append(seed)
    )

    assert set(done) == {2}
    assert resumed.summary()["digest"] == whole.summary()["digest"]
    assert [run.seed for run in read_results(results)] == [1, 2]


def test_finished_runs_of_another_configuration_or_strategy_do_not_count(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    simulate(small(), results=results)
    simulate(small(train={"lr": 0.1}), results=results)
    simulate(small(strategy={"name": "fedasync"}), results=results)
    simulate(small(run={"seeds": 3}), results=results)
    assert len(read_results(results)) == 7


def test_results_of_a_recipe_before_it_was_changed_are_not_shown_beside_others(
    tmp_path: Path,
) -> None:
    results = tmp_path / "results.jsonl"
    (run,) = simulate(small(run={"seeds": 1})).runs
    own = [replace(run, strategy="m:Own", seed=seed, source=source) for seed, source in OWN]
    results.touch()
    for line in (run, *own):
        append(results, line)

    def shown(*chosen: SeedResult) -> list[SeedResult]:
        result = SimulationResult(chosen[0].strategy, chosen)
        return results_beside(results, run.config, result)

    assert shown(run) == [run, own[2]]
    # The file is again what it was.
    assert shown(*own[:2]) == [run, *own[:2]]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_refused_updates_are_complained_of() -> None:
    diverging = small(
        devices={"sigma": 0.0}, train={"lr": 1e6, "weight_decay": 1e3, "local_steps": 20}
    )
    result = simulate(diverging)
    assert result.summary()["outcomes"] == {"NONFINITE": 12}
    assert [run.complaint for run in result.runs] == [
        f"seed {seed}: 6 of 6 updates were refused. NONFINITE (6): The update holds NaN or "
        "infinite values; lower the learning rate or clip gradients. The accuracy is that of the "
        "untrained model."
        for seed in (1, 2)
    ]
    late = small(strategy={"name": "fedbuff", "max_staleness": 0})
    (run, _) = simulate(late).runs
    assert run.outcomes["TOO_STALE"]
    assert run.complaint is None


def test_a_resumed_sweep_stays_with_the_backend_it_measured(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    shape = {"model": "cnn", "local_steps": 1}
    measured = simulate(small(train=shape, run={"seeds": 1, "virtual_time": 1.0}), results=results)
    other = {"vmap": "flat", "flat": "vmap"}[measured.runs[0].backend]
    text = results.read_text()
    results.write_text(text.replace(f'"{measured.runs[0].backend}"', f'"{other}"'))
    again = simulate(small(train=shape, run={"seeds": 2, "virtual_time": 1.0}), results=results)
    assert [run.backend for run in again.runs] == [other, other]


def test_devices_and_data_are_the_same_for_every_strategy() -> None:
    one, other = (
        simulate(small(strategy={"name": name}, run={"seeds": 1, "virtual_time": 1.0}))
        for name in ("async-wa", "fedasync")
    )
    assert one.runs[0].updates == other.runs[0].updates
    assert one.runs[0].accuracies[0] == other.runs[0].accuracies[0]


@pytest.mark.parametrize("backend", ["numpy", "flat"])
def test_every_setting_of_the_local_optimiser_changes_the_digest(backend: str) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"proximal": 0.5},
    ]
    short = {"seeds": 1, "virtual_time": 1.0}
    runs = [simulate(small(train={"backend": backend, **s}, run=short)) for s in settings]
    assert len({run.runs[0].digest for run in runs}) == len(settings)


LIMITED = {"devices": {"in_flight": 2}, "run": {"seeds": 1, "virtual_time": 8.0}}


@pytest.mark.parametrize("policy", ["speed", "load-aware", "auction"])
def test_a_selection_policy_changes_who_takes_part_repeatably(policy: str) -> None:
    uniform = simulate(small(**LIMITED)).runs[0]
    one, other = (simulate(small(**LIMITED, dispatch={"policy": policy})).runs[0] for _ in "12")
    assert one.digest == other.digest != uniform.digest
    assert one.fairness == other.fairness != uniform.fairness


def test_how_many_clients_are_trained_together_does_not_change_a_selection() -> None:
    digests = {
        simulate(small(**LIMITED, dispatch={"policy": "speed"}, train={"cohort_size": size}))
        .runs[0]
        .digest
        for size in (1, 4)
    }
    assert len(digests) == 1


def test_options_of_a_policy_come_from_their_own_table() -> None:
    options = {"speed": {"exponent": 0.0}, "auction": {"reliability": 9.0}}
    flat, steep = (
        simulate(small(**LIMITED, dispatch={"policy": "speed", "options": found})).runs[0]
        for found in (options, {"speed": {"exponent": 6.0}})
    )
    assert flat.fairness > steep.fairness


def test_a_run_in_which_nobody_is_there_ends() -> None:
    churn = {"session": 0.01, "absence": 1e9}
    run = simulate(small(devices=churn, run={"seeds": 1})).runs[0]
    assert (run.updates, run.utilisation) == (0, 0.0)


CHURN: dict[str, Any] = {"session": 2.0, "absence": 1.0, "join_rate": 0.3}


@pytest.mark.parametrize("more", [{}, {"duty_cycle": 0.7, "period": 2.0, "death_rate": 0.3}])
@pytest.mark.parametrize("strategy", ["async-wa", "fedavg"])
def test_churn_gives_the_same_digests_whoever_is_trained_together(
    more: dict[str, Any], strategy: str
) -> None:
    runs = [
        simulate(
            small(
                devices={**CHURN, **more, "in_flight": 4},
                strategy={"name": strategy, "buffer_size": 2},
                train={"cohort_size": size},
                run={"virtual_time": 8.0},
            )
        ).runs
        for size in (1, 3, 16)
    ]
    assert len({tuple(run.digest for run in some) for some in runs}) == 1
    assert all(run.outcomes["failed"] and run.versions for run in runs[0])
    assert all(run.utilisation is not None and 0 < run.utilisation < 1.001 for run in runs[0])


@pytest.mark.parametrize("policy", ["uniform", "speed", "load-aware", "auction"])
def test_every_policy_chooses_among_clients_that_come_and_go(policy: str) -> None:
    devices = {**CHURN, "in_flight": 3}
    one, other = (simulate(small(devices=devices, dispatch={"policy": policy})) for _ in "12")
    assert one.summary()["digest"] == other.summary()["digest"]
    assert all(run.updates for run in one.runs)


def test_clients_that_are_always_there_are_always_at_work_until_they_leave() -> None:
    # One at work at a time, and no version to wait for: time away does not count.
    devices = {**CHURN, "in_flight": 1.0}
    strategy = {"name": "fedasync"}
    for run in simulate(small(devices=devices, strategy=strategy)).runs:
        assert run.utilisation == pytest.approx(1.0, abs=1e-9)


def test_two_sweeps_do_not_write_to_the_same_results(tmp_path: Path) -> None:
    results = tmp_path / "a.jsonl"
    with held(results), pytest.raises(StorageFailed, match=r"run\.output: another sweep"):
        simulate(small(), results=results)


def test_lines_that_are_no_results_are_left_out(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    whole = simulate(small(run={"seeds": 1}), results=results)
    line = results.read_bytes()
    empty = re.sub(rb'"accuracies": .*?\]\]', b'"accuracies": []', line)
    typed = line.replace(b'"seed": 1', b'"seed": "1"')
    damaged = [b"\xff" + line, empty, typed, b"[" * 100_000 + b"\n", b"3\n"]
    results.write_bytes(b"".join([*damaged, line]))
    assert read_results(results) == list(whole.runs)


def test_a_uniform_speed_has_a_spread_of_its_own() -> None:
    assert small(devices={"speed": "uniform"}).devices.sigma == 0.5
    assert small(devices={"speed": "uniform", "sigma": 0.25}).devices.sigma == 0.25


@pytest.mark.parametrize("key", ["trace", "windows"])
def test_the_key_of_a_configuration_covers_what_its_files_hold(tmp_path: Path, key: str) -> None:
    files = tmp_path / "one.csv", tmp_path / "other.csv"
    speed = {"speed": "trace"} if key == "trace" else {}
    keys = []
    for path, text in zip((*files, files[0]), ("a", "a", "b"), strict=True):
        path.write_text(text)
        keys.append(small(devices={**speed, key: path}).key())
    assert keys[0] == keys[1] != keys[2]


def test_keys_of_configurations_without_churn_are_those_of_earlier_versions() -> None:
    # The key changes with the revision and nothing else.
    fedbuff = {"strategy": {"name": "fedbuff"}}
    keys = {
        small(devices=some, **fedbuff).key() for some in ({}, {"join_rate": 0.0}, {"windows": None})
    }
    assert keys == {"08db03a87f809498"}
    for some in ({"session": 1.0, "absence": 1.0}, {"join_rate": 0.5}):
        assert small(devices=some, **fedbuff).key() not in keys


def test_a_recipe_whose_results_changed_has_another_key_and_the_others_have_theirs() -> None:
    keys = [small(strategy={"name": name}).key() for name in ("fedbuff", "ca2fl", "async-wa")]
    assert keys[0] == keys[1] != keys[2]
