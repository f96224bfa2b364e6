"""What is sent at each version, kept while somebody trains from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from fl_protocol.flower import BASE_VERSION
from fl_server.strategy.hooks import Hooks, RunSettings
from fl_server.strategy.model import Model
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
