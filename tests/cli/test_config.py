from pathlib import Path

import pytest

from asynclave.config import load_config
from fl_protocol.codes import ConfigInvalid


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_need_no_file() -> None:
    config = load_config(None, {})

    assert config.devices.clients == 20
    assert config.k == config.strategy.buffer_size


def test_flags_win_over_environment_which_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "run.toml", "[run]\nseed = 2\nmerges = 3\n[devices]\nclients = 4\n")
    monkeypatch.setenv("ASYNCLAVE_RUN__MERGES", "30")
    monkeypatch.setenv("ASYNCLAVE_DEVICES__CLIENTS", "40")

    config = load_config(path, {"devices": {"clients": 41}, "run": {"seed": None}})

    assert (config.run.seed, config.run.merges, config.devices.clients) == (2, 30, 41)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[run]\nmergers = 3\n", "run.mergers: there is no such key"),
        ("[devices]\nclients = 1\n", "devices.clients"),
        ('[strategy]\nname = "fedprox"\n', "strategy.name"),
        ("[train]\nlr = inf\n", "train.lr"),
        ("[train]\nhidden = 10_000_000_000_000\n", "train.hidden"),
        (f"[run]\nseed = {2**64}\n", "run.seed"),
        ("[run\n", "not valid TOML"),
    ],
)
def test_refuses_what_does_not_fit_and_names_it(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path / "run.toml", text)

    with pytest.raises(ConfigInvalid, match=named) as refused:
        load_config(path, {})

    assert refused.value.code == "CONFIG_INVALID"


def test_refuses_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigInvalid, match="not valid TOML"):
        load_config(path, {})


def test_refuses_a_variable_that_is_no_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCLAVE_DATA", "mnist")

    with pytest.raises(ConfigInvalid, match='"data"'):
        load_config(None, {})


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no configuration file"):
        load_config(tmp_path / "absent.toml", {})
    with pytest.raises(ConfigInvalid, match="is no file"):
        load_config(tmp_path, {})


def test_the_example_file_states_the_defaults() -> None:
    example = Path(__file__).parents[2] / "experiments" / "main-job.toml"

    assert load_config(example, {}).model_dump() == load_config(None, {}).model_dump()
