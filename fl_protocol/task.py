"""What a training task tells a ClientApp, as one digest that goes into the sealed header.

Updates are aggregated only with updates of the same task: a server that sends some nodes another
learning rate, so that a release shows the others' updates, finds its buffer refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from fl_protocol import canonical, flower
from fl_protocol.canonical import Json
from fl_protocol.codes import Code, ConfigInvalid

Records = Mapping[str, Mapping[str, object]]

_ROUND = "server-round"


def task_digest(
    kind: str,
    configs: Records,
    metrics: Records,
    arrays: Iterable[str],
    carried: Mapping[str, npt.NDArray[Any]],
    run_config: Mapping[str, object],
) -> str:
    """Digest everything but the trained parameters that may steer local training.

    Covered are the message type, every entry of every ConfigRecord and MetricRecord, the model's
    integer arrays and the name of their record, and the run's configuration. Left out are the
    values of what differs between versions: the base version, which the sealed header names itself,
    and "server-round", which must be the base version plus one.

    Parameters
    ----------
    kind : str
        Type of the message.
    configs, metrics : Mapping of str to Mapping
        Its ConfigRecords and MetricRecords by name.
    arrays : iterable of str
        Names of its ArrayRecords.
    carried : Mapping of str to ndarray
        The model's integer arrays, such as BatchNorm counters, which a run never changes.
    run_config : Mapping
        ``Context.run_config``.

    Returns
    -------
    str
        Hexadecimal SHA-256 of the canonical encoding.

    Raises
    ------
    ConfigInvalid
        "server-round" does not fit the base version, or an entry cannot be encoded.
    """
    told: dict[str, dict[str, object]] = {name: dict(record) for name, record in configs.items()}
    base_version = _base_version(told)
    for entries in told.values():
        _hide_version(entries, base_version)
    members = {
        "type": kind,
        "configs": told,
        "metrics": metrics,
        "arrays": list(arrays),
        "carried": {name: array.tobytes() for name, array in carried.items()},
        "run": run_config,
    }
    try:
        return hashlib.sha256(canonical.encode(_tagged(members))).hexdigest()
    except ValueError as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"the training task cannot be digested: {error}"
        ) from None


def _hide_version(entries: dict[str, object], base_version: int) -> None:
    if entries.get(flower.BASE_VERSION, base_version) != base_version:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, "the training task names more than one base version"
        )
    if entries.get(_ROUND, base_version + 1) != base_version + 1:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"the training task's {_ROUND} is not its base version plus one"
        )
    # Without a round, or with one of another type, an app may train otherwise.
    for name in entries.keys() & {flower.BASE_VERSION, _ROUND}:
        entries[name] = type(entries[name]).__name__


def _base_version(configs: Records) -> int:
    for entries in configs.values():
        value = entries.get(flower.BASE_VERSION)
        if type(value) is int:
            return value
    return -1


def _tagged(value: object) -> Json:
    """Name each value's type: 1, 1.0, True and "1" are different settings."""
    if isinstance(value, Mapping):
        return {str(name): _tagged(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, float):
        return f"float {value.hex()}"
    return f"{type(value).__name__} {value}"
