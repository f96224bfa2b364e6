"""A run that was cut off, as its directory shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asynclave.config import RunConfig
from asynclave.run.history import Evaluation, History
from asynclave.run.record import CONFIG, METRICS, SUMMARY, state_of
from fl_protocol.codes import Code, ConfigInvalid


@dataclass(frozen=True)
class Interrupted:
    """What is known of a run that did not finish.

    Attributes
    ----------
    directory : Path
        Its directory.
    config : RunConfig
        Its configuration.
    plain : bool
        Whether it was without the trust path.
    history : History
        What had happened.
    time : float
        Virtual time of the last event.
    """

    directory: Path
    config: RunConfig
    plain: bool
    history: History
    time: float


def interrupted(run: Path) -> Interrupted:
    """Read the directory of a run that was cut off.

    Parameters
    ----------
    run : Path
        The directory, or its name below ``runs/``.

    Raises
    ------
    ConfigInvalid
        There is no such run, or it has finished, or it cannot be read.
    """
    directory = run if run.is_dir() else Path("runs") / run
    if not (directory / CONFIG).is_file():
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{run} is no directory of a run.")
    if _status(directory) == "finished":
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{directory} has finished; nothing is left to do."
        )
    try:
        config = RunConfig.model_validate_json((directory / CONFIG).read_text())
    except (OSError, ValidationError) as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{directory / CONFIG} cannot be read: {error}"
        ) from None
    state = state_of(directory)
    if not state.is_dir():
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{directory} ended before there was anything to continue from."
        )
    history = History(config.strategy.name)
    events = list(_events(directory))
    for event in events:
        _recall(history, event)
    history.recalled = history.updates
    time = max((event["time"] for event in events), default=0.0)
    return Interrupted(directory, config, (state / "ledger.sqlite").exists(), history, time)


def _status(directory: Path) -> str:
    try:
        status: str = json.loads((directory / SUMMARY).read_text())["status"]
    except FileNotFoundError:
        return "killed"
    return status


def _events(directory: Path) -> list[dict[str, Any]]:
    whole, _, _ = (directory / METRICS).read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def _recall(history: History, event: dict[str, Any]) -> None:
    if event["kind"] == "update":
        history.codes[event["code"]] += 1
        if event["accepted"]:
            history.staleness.append(event["staleness"])
            history.participation[event["client"]] += 1
    elif event["kind"] == "merge":
        history.digest = event["digest"]
        figures = event["server"]
        history.evaluations.append(
            Evaluation(event["time"], event["version"], figures["accuracy"], figures["loss"])
        )
