"""What a sweep refuses before any training, in one clear error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fl_protocol.codes import ConfigInvalid
from fl_sim.simulation.config import SimulationConfig, load_config
from fl_sim.simulation.sweep import simulate
from strategies.errors import BadOption, UnknownPolicy, UnknownRecipe
from tests.support.sweeps import small


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"devices": {"client": 3}}, "devices.client: there is no such key"),
        ({"devices": {"in_flight": 7}}, "in_flight exceeds the 6 clients"),
        ({"devices": {"in_flight": 1.5}}, "in_flight is a whole number"),
        ({"devices": {"speed": "trace"}}, 'devices: speed = "trace" and the key trace'),
        ({"devices": {"clients": "6"}}, "devices.clients: "),
        ({"devices": {"clients": True}}, "devices.clients: "),
        ({"devices": {"slow_hold_rare": "off"}}, "devices.slow_hold_rare: "),
        ({"devices": {"sigma": 1000}}, "devices.sigma: "),
        ({"devices": {"jitter": math.nan}}, "devices.jitter: "),
        ({"devices": {"bandwidth_mbps": math.inf}}, "devices.bandwidth_mbps: "),
        ({"devices": {"speed": "trace", "trace": "a\0b"}}, "devices.trace: "),
        ({"devices": {"session": 5.0}}, "devices: session and absence go together"),
        ({"devices": {"session": 0.0, "absence": 1.0}}, "devices.session: "),
        ({"devices": {"absence": math.inf, "session": 1.0}}, "devices.absence: "),
        ({"devices": {"join_rate": 1.5}}, "devices.join_rate: "),
        ({"devices": {"windows_period": 5.0}}, "windows_period is for windows"),
        ({"devices": {"windows": "x.csv", "duty_cycle": 0.5}}, "windows and duty_cycle both say"),
        ({"devices": {"windows": "x.csv", "join_rate": 0.5}}, "leave join_rate out"),
        ({"devices": {"windows": "none.csv"}}, "devices.windows: none.csv cannot be read"),
        ({"devices": {"period": 5.0}}, "devices: period is for a duty cycle; leave it out"),
        ({"devices": {"period": 5.0, "windows": "x.csv"}}, "period is for a duty cycle"),
        ({"devices": {"bandwidth_sigma": 1.0}}, "bandwidth_sigma is for bandwidth_mbps"),
        (
            {"devices": {"speed": "trace", "trace": "x", "task_seconds": 2.0}},
            "task_seconds is said",
        ),
        ({"strategy": {"options": {"fedbuff": {"server_lr": math.nan}}}}, "strategy.options."),
        ({"train": {"lr": "fast"}}, "train.lr: "),
        ({"train": {"lr": math.inf}}, "train.lr: "),
        ({"train": {"hidden": 10**30}}, "train.hidden: "),
        ({"train": {"momentum": 1.0}}, "train.momentum: "),
        ({"train": {"nesterov": True}}, "nesterov needs momentum"),
        ({"train": {"weight_decay": -0.1}}, "train.weight_decay: "),
        ({"train": {"proximal": math.inf}}, "train.proximal: "),
        ({"run": {"evaluate_every": math.inf}}, "run.evaluate_every: "),
        ({"run": {"first_seed": 2**64}}, "run.first_seed: "),
        ({"run": {"virtual_time": 0}}, "run.virtual_time: "),
        ({"nonsense": {"a": 1}}, "nonsense: there is no such key"),
        ({"strategy": {"name": "fedbuff", "buffer_size": 7}}, "strategy.buffer_size: a buffer"),
        (
            {"strategy": {"options": {"fedbuff": {"buffer_size": 7}}}},
            "strategy.options.fedbuff.buffer_size: a buffer of 7 never fills",
        ),
        (
            {"strategy": {"name": "ca2fl", "buffer_size": 5}, "devices": {"death_rate": 0.3}},
            "devices.death_rate = 0.3 leaves 4",
        ),
        ({"train": {"model": "gpt"}}, "train.model: there is no model 'gpt'"),
        ({"train": {"model": "cnn", "backend": "numpy"}}, "train.backend: numpy trains"),
        ({"train": {"model": "char-mlp"}}, "train.model: char-mlp does not fit mnist-5k"),
        ({"data": {"name": "emnist"}}, "data.name: there is no data set 'emnist'"),
        ({"data": {"alpha": 0.001}, "devices": {"clients": 60}}, "data, seed 1: "),
        ({"strategy": {"options": {"fedbuf": {}}}}, "strategy.options.fedbuf: nothing has"),
        ({"dispatch": {"options": {"sped": {}}}}, "dispatch.options.sped: nothing has"),
        (
            {
                "strategy": {"options": {"async-wa": {"cache": "disk"}}},
                "run": {"cache_folder": "/nowhere"},
            },
            "run.cache_folder: /nowhere",
        ),
    ],
)
def test_a_bad_configuration_is_refused_before_any_training(
    sections: dict[str, dict[str, Any]], complaint: str
) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        simulate(small(**sections), on_progress=lambda *_: pytest.fail("trained"))
    assert complaint in refusal.value.sentence


@pytest.mark.parametrize(
    "options", [{"server_lr": -1.0}, {"attackers": 0.3}, {"name": "other"}, {"magic": 1}]
)
def test_options_of_recipes_that_do_not_run_are_tried_too(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=r"strategy\.options\.fedbuff"):
        simulate(small(strategy={"options": {"fedbuff": options}}))


def test_a_buffer_that_waits_need_not_fill() -> None:
    options = {"fedbuff": {"buffer_size": 7, "max_wait": 1.0}}
    run = {"seeds": 1, "virtual_time": 1.0}
    assert simulate(small(strategy={"name": "fedbuff", "options": options}, run=run)).runs


@pytest.mark.parametrize("key", ["duty_cycle", "bandwidth_mbps"])
def test_what_a_trace_says_is_not_said_twice(tmp_path: Path, key: str) -> None:
    trace = tmp_path / "devices.csv"
    rows = [f"{client},1.0,20.0,0.5" for client in range(6)]
    trace.write_text("\n".join(["client,compute,network,duty_cycle", *rows]))
    devices = {"speed": "trace", "trace": trace, key: 0.9}
    with pytest.raises(ConfigInvalid, match=f"devices.{key}: the trace says it already"):
        simulate(small(devices=devices))


def test_a_period_is_for_a_trace_with_duty_cycles(tmp_path: Path) -> None:
    trace = tmp_path / "devices.csv"
    devices = {"speed": "trace", "trace": trace, "period": 5.0}
    trace.write_text("client,compute\n" + "".join(f"{client},1.0\n" for client in range(6)))
    with pytest.raises(ConfigInvalid, match=r"devices\.period: it is for a duty cycle, which the"):
        simulate(small(devices=devices))
    run = {"seeds": 1, "virtual_time": 1.0}
    assert simulate(small(devices={**devices, "duty_cycle": 0.5}, run=run)).runs
    rows = "".join(f"{client},1.0,0.5\n" for client in range(6))
    trace.write_text(f"client,compute,duty_cycle\n{rows}")
    assert simulate(small(devices=devices, run=run)).runs


def test_a_configuration_that_was_written_out_can_be_read_again() -> None:
    for sections in ({}, {"data": {"partition": "iid"}}, {"devices": {"speed": "uniform"}}):
        config = small(**sections)
        assert SimulationConfig.model_validate(config.model_dump()) == config


def test_keys_of_an_alternative_that_is_not_chosen_do_no_harm(tmp_path: Path) -> None:
    trace = tmp_path / "devices.csv"
    trace.write_text("client,compute\n" + "".join(f"{client},1.0\n" for client in range(6)))
    sections = {
        "data": {"partition": "iid", "alpha": 0.7},
        "devices": {"speed": "trace", "trace": trace, "sigma": 0.3},
        "train": {"hidden": 8},
        "run": {"seeds": 1, "virtual_time": 1.0},
    }
    assert simulate(small(**sections)).runs


def test_windows_and_a_trace_do_not_both_say_who_is_online(tmp_path: Path) -> None:
    trace, windows = tmp_path / "devices.csv", tmp_path / "windows.csv"
    rows = [f"{client},1.0,0.5" for client in range(6)]
    trace.write_text("\n".join(["client,compute,duty_cycle", *rows]))
    windows.write_text(shifts({}, {}))
    devices = {"speed": "trace", "trace": trace, "windows": windows}
    with pytest.raises(ConfigInvalid, match=r"devices\.windows: the trace says it already"):
        simulate(small(devices=devices))


def shifts(starts: dict[int, float], ends: dict[int, float]) -> str:
    """Windows of six clients; from 0 to 100 s unless said otherwise."""
    rows = [f"{n},{starts.get(n, 0.0):g},{ends.get(n, 100.0):g}" for n in range(6)]
    return "\n".join(["client,start,end", *rows])


@pytest.mark.parametrize(
    ("starts", "ends", "refused"),
    [
        ({}, {0: 1.0, 3: 2.0}, None),
        ({0: 90.0, 3: 90.0}, {}, r"strategy\.buffer_size: a buffer of 5 .* the 4 of 6 clients"),
        (dict.fromkeys(range(6), 90.0), {}, r"devices\.windows: nobody is online before"),
    ],
)
def test_windows_in_which_too_few_come_are_refused_before_any_training(
    tmp_path: Path, starts: dict[int, float], ends: dict[int, float], refused: str | None
) -> None:
    file = tmp_path / "windows.csv"
    file.write_text(shifts(starts, ends))
    strategy = {"name": "fedbuff", "buffer_size": 5}
    config = small(devices={"windows": file}, strategy=strategy)
    if refused is None:
        assert all(run.updates for run in simulate(config).runs)
        return
    with pytest.raises(ConfigInvalid, match=refused):
        simulate(config, on_progress=lambda *_: pytest.fail("trained"))


@pytest.mark.parametrize(
    ("strategy", "refused"),
    [
        ({"name": "async-wa", "buffer_size": 100}, r"strategy\.buffer_size: 100 updates"),
        ({"name": "fedasync"}, r"devices\.in_flight: 60 models"),
        (
            {"name": "ca2fl", "buffer_size": 1, "options": {"ca2fl": {"cache": "bfloat16"}}},
            r"devices\.in_flight: 60 models of 7,850 parameters and what else is kept take",
        ),
        ({"name": "ca2fl", "buffer_size": 5}, r"devices\.in_flight: 60 cached deltas"),
    ],
)
def test_what_no_memory_could_hold_is_refused_before_any_training(
    monkeypatch: pytest.MonkeyPatch, strategy: dict[str, Any], refused: str
) -> None:
    monkeypatch.setattr("fl_sim.simulation.room._memory", lambda: 1 << 20)
    config = small(devices={"clients": 100, "in_flight": 60}, strategy=strategy)
    with pytest.raises(ConfigInvalid, match=f"^CONFIG_INVALID: {refused}"):
        simulate(config, on_progress=lambda *_: pytest.fail("trained"))


def test_what_is_kept_on_disk_or_for_few_updates_takes_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fl_sim.simulation.room._memory", lambda: 1 << 20)
    devices = {"clients": 100, "in_flight": 60}
    on_disk = {"name": "ca2fl", "buffer_size": 5, "options": {"ca2fl": {"cache": "disk"}}}
    assert simulate(small(devices=devices, strategy=on_disk)).runs
    run = {"seeds": 1, "max_updates": 10}
    assert simulate(small(devices=devices, strategy={"name": "fedasync"}, run=run)).runs


def test_a_cache_folder_that_nobody_uses_need_not_exist() -> None:
    run = {"seeds": 1, "virtual_time": 1.0, "cache_folder": "/nowhere"}
    assert simulate(small(run=run)).runs


def test_results_that_cannot_be_written_are_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for results in (tmp_path / "file" / "results.jsonl", tmp_path / "folder"):
        with pytest.raises(ConfigInvalid, match=r"run\.output: "):
            simulate(small(), results=results, on_progress=lambda *_: pytest.fail("trained"))


def test_unknown_recipes_policies_and_options_are_refused() -> None:
    with pytest.raises(UnknownRecipe):
        simulate(small(strategy={"name": "fedmagic"}))
    with pytest.raises(UnknownPolicy):
        simulate(small(dispatch={"policy": "fastest"}))
    with pytest.raises(BadOption):
        simulate(small(dispatch={"policy": "speed", "options": {"speed": {"exponent": -1}}}))
    with pytest.raises(BadOption):
        simulate(small(strategy={"name": "fedbuff", "options": {"fedbuff": {"magic": 1}}}))


def test_names_a_configuration_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    for text in ("[run\n", f"[run]\nseeds = {'9' * 5000}\n", f"a = {'[' * 100_000}"):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ConfigInvalid, match="not valid TOML"):
            load_config(tmp_path / "bad.toml")
