"""What is sent at each version, kept while somebody trains from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, MessageType, RecordDict
from flwr.serverapp import Grid

from fl_protocol.flower import BASE_VERSION
from fl_protocol.task import task_digest
from fl_server.strategy.hooks import Hooks, RunSettings
from fl_server.strategy.model import Model
from strategies.layout import Arrays
from strategies.update import Vector


@dataclass(frozen=True)
class Snapshot:
    """What every training task of a version carries.

    Attributes
    ----------
    params : Vector, shape (P,)
        The parameters that nodes train from.
    content : RecordDict
        The content of the messages.
    """

    params: Vector
    content: RecordDict


def task_of(content: RecordDict, carried: Arrays, run_config: Mapping[str, object]) -> str:
    """Digest what nodes are told, as far as a server knows it.

    Parameters
    ----------
    content : RecordDict
        Of the training messages.
    carried : mapping of str to ndarray
        The model's integer arrays.
    run_config : mapping
        What ``flwr run`` was given; the rest of nodes' ``run_config`` is in the app.

    Raises
    ------
    ConfigInvalid
        See `fl_protocol.task.task_digest`; nodes would refuse the task for the same.
    """
    return task_digest(
        MessageType.TRAIN,
        content.config_records,
        content.metric_records,
        content.array_records,
        carried,
        run_config,
    )


class Snapshots:
    """The versions that are being trained from.

    Parameters
    ----------
    hooks : Hooks
        The strategy, asked once per version what to send.
    grid : Grid
        Passed to the strategy.
    model : Model
        The model in its current version.
    config : RunSettings
        What every task carries.
    """

    def __init__(self, hooks: Hooks, grid: Grid, model: Model, config: RunSettings) -> None:
        self._hooks, self._grid, self._model, self._config = hooks, grid, model, config
        self._kept: dict[int, Snapshot] = {}

    def get(self, version: int) -> Snapshot | None:
        """Return what was sent at a version; None if nothing was, or it is in use no more."""
        return self._kept.get(version)

    def take(self, version: int, in_use: Collection[int]) -> Snapshot | None:
        """Compose what is sent at a new version and forget those that nobody trains from.

        None if the strategy returns no message.
        """
        messages = self._hooks.configure_train(
            version + 1, self._model.current, self._config.train_config, self._grid
        )
        first = next(iter(messages), None)
        if first is None:
            return None
        key = self._config.configrecord_key
        entries = dict(first.content.config_records.get(key, ConfigRecord()))
        entries.update(self._config.task_entries)
        entries[BASE_VERSION] = version
        content = RecordDict({**first.content, key: ConfigRecord(entries)})
        self._kept = {v: kept for v, kept in self._kept.items() if v in in_use}
        self._kept[version] = Snapshot(self._model.params, content)
        return self._kept[version]
