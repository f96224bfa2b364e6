"""The directory of one run: ``runs/<id>/``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from asynclave.config import RunConfig
from fl_protocol.codes import Code, ConfigInvalid
from fl_server.strategy.events import Event, MergeEvent, UpdateEvent

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"


class RunDirectory:
    """Writes what a run leaves behind, line by line, so that an interrupted run is readable.

    Parameters
    ----------
    path : Path
        An existing directory; its events are continued.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn_line(path / METRICS)
        self._metrics = (path / METRICS).open("a", encoding="utf-8", buffering=1)

    @classmethod
    def create(cls, parent: Path, run_id: str) -> RunDirectory:
        """Make the directory of a new run; raises ConfigInvalid."""
        path = parent / run_id
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                f"The run directory {path} cannot be made: {error.strerror}.",
            ) from None
        return cls(path)

    @property
    def state(self) -> Path:
        """Where the run keeps what it continues from."""
        return state_of(self.path)

    def event(self, event: Event) -> None:
        """Append one update, merge or evaluation to ``metrics.jsonl``."""
        self._metrics.write(json.dumps(_line(event)) + "\n")

    def config(self, config: RunConfig) -> None:
        """Write the whole configuration, defaults included, to ``config.json``."""
        (self.path / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")

    def model(self, arrays: Mapping[str, npt.NDArray[Any]], digest: str) -> None:
        """Write the final model to ``model.safetensors`` with its digest as metadata."""
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        save_file(contiguous, self.path / "model.safetensors", metadata={"digest": digest})

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run's figures to ``summary.json``."""
        (self.path / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")

    def close(self) -> None:
        """Close the line file; idempotent."""
        self._metrics.close()


def state_of(directory: Path) -> Path:
    """Return where a run keeps what it continues from."""
    return directory / "state"


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def _line(event: Event) -> dict[str, Any]:
    if isinstance(event, UpdateEvent):
        return {"kind": "update", **vars(event)}
    if isinstance(event, MergeEvent):
        return {
            "kind": "merge",
            "time": event.time,
            "version": event.version,
            "digest": event.digest,
            "num_updates": event.num_updates,
            "train": dict(event.train_metrics or {}),
            "server": dict(event.server_metrics or {}),
        }
    return {
        "kind": "evaluation",
        "time": event.time,
        "version": event.version,
        "num_replies": event.num_replies,
        "metrics": dict(event.metrics or {}),
    }
