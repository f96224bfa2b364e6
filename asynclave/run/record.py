"""The directory of one run: ``runs/<id>/``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from asynclave.config import RunConfig
from fl_protocol.codes import Code, ConfigInvalid
from fl_server.strategy.events import Event, MergeEvent, UpdateEvent


class RunDirectory:
    """Writes what a run leaves behind, line by line, so that an interrupted run is readable.

    Parameters
    ----------
    parent : Path
        Folder that holds all runs.
    run_id : str
        Name of the new directory.

    Raises
    ------
    ConfigInvalid
        If the directory cannot be made.
    """

    def __init__(self, parent: Path, run_id: str) -> None:
        self.path = parent / run_id
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                f"The run directory {self.path} cannot be made: {error.strerror}.",
            ) from None
        self._metrics = (self.path / "metrics.jsonl").open("w", encoding="utf-8", buffering=1)

    def event(self, event: Event) -> None:
        """Append one update, merge or evaluation to ``metrics.jsonl``."""
        self._metrics.write(json.dumps(_line(event)) + "\n")

    def config(self, config: RunConfig) -> None:
        """Write the whole configuration, defaults included, to ``config.json``."""
        (self.path / "config.json").write_text(config.model_dump_json(indent=2) + "\n")

    def model(self, arrays: Mapping[str, npt.NDArray[Any]], digest: str) -> None:
        """Write the final model to ``model.safetensors`` with its digest as metadata."""
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        save_file(contiguous, self.path / "model.safetensors", metadata={"digest": digest})

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run's figures to ``summary.json``."""
        (self.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    def close(self) -> None:
        """Close the line file; idempotent."""
        self._metrics.close()


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
