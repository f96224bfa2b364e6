"""The Flower mod that sends updates sealed to the enclave instead of inside Flower messages."""

from __future__ import annotations

import threading
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import (
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable, Mod

from fl_client.config import ClientConfig, find_config
from fl_client.outbox import Metrics
from fl_client.updates import LocalUpdate, Uploaded
from fl_client.uploader import REFUSALS, SealedUploader, Settled
from fl_protocol import flower
from fl_protocol.codes import (
    AsynclaveError,
    Code,
    ConfigInvalid,
    EnvelopeRejected,
    UpdateRejected,
)
from fl_protocol.signatures import Signed
from fl_protocol.task import task_digest
from strategies.errors import ManifestMismatch
from strategies.layout import Layout
from strategies.reject import Reject
from strategies.update import Vector, digest_of

_logger = getLogger(__name__)

_ERROR_CODE = 1


def sealed_uploads(config: ClientConfig | Path | str | None = None) -> Mod:
    """Make a mod that replaces the arrays of a training reply by the enclave's receipt.

    The model still comes in the Flower message; the trained update goes sealed to the gateway.
    Of the ClientApp's reply only metric records travel on.

    Parameters
    ----------
    config : ClientConfig or path, optional
        The node's bundle. By default the path in the node config's "asynclave-config" or in the
        environment variable ASYNCLAVE_CLIENT_CONFIG.

    Returns
    -------
    Mod
        For ``ClientApp(mods=[...])``; put mods that change the update (clipping, noise) after
        it in the list.
    """
    uploaders = _Uploaders(config)

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.partition(".")[0] != MessageType.TRAIN:
            return call_next(message, context)
        try:
            # Before training: a task that could not be delivered is not worth the work.
            task = _Task(message, context)
            uploader = uploaders.of(context)
            settled = task.settle(uploader)
            if settled is None:
                task.check(uploader)
        except REFUSALS as error:
            return _answer(message, RecordDict(), error.code)
        except AsynclaveError as error:
            return _failed(message, error)
        if settled is not None:
            # Trained already, by a process whose reply may have been lost.
            return _answered(message, _records(settled.metrics), settled.uploaded)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        try:
            uploaded = uploader.upload(task.update_in(reply), _metrics(reply.content))
        except REFUSALS as error:
            # The answer has room for the code only.
            _logger.warning("The update was refused. %s", error)
            return _answer(message, reply.content, error.code)
        except AsynclaveError as error:
            return _failed(message, error)
        return _answered(message, reply.content, uploaded)

    return mod


class _Uploaders:
    """One uploader per bundle: a simulation runs many nodes in one process."""

    def __init__(self, config: ClientConfig | Path | str | None) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._made: dict[str, SealedUploader] = {}

    def of(self, context: Context) -> SealedUploader:
        config = self._config
        if config is None:
            config = find_config(context.node_config)
        key = config.identity_dir if isinstance(config, ClientConfig) else str(config)
        with self._lock:
            if key not in self._made:
                loaded = config if isinstance(config, ClientConfig) else ClientConfig.load(config)
                self._made[key] = SealedUploader(loaded)
            return self._made[key]


class _Task:
    """A training task as the strategy describes it in the message."""

    def __init__(self, message: Message, context: Context) -> None:
        entries = _entries(message.content)
        self._run_id = _entry(entries, flower.RUN_ID, str)
        self._base_version = _entry(entries, flower.BASE_VERSION, int)
        self._weighted_by = _entry(entries, flower.WEIGHTED_BY, str)
        self._replies_deltas = _entry(entries, flower.REPLIES, str) == "deltas"
        try:
            arrays = _only_arrays(message.content)
            self._layout = Layout.of(arrays)
            self._base = self._layout.flatten(arrays)
        except (ManifestMismatch, ValueError) as error:
            raise ConfigInvalid(
                Code.CONFIG_INVALID, f"the training message holds no usable model: {error}"
            ) from None
        self._base_digest = digest_of(self._base)
        self._digest = task_digest(
            message.metadata.message_type,
            message.content.config_records,
            message.content.metric_records,
            message.content.array_records,
            self._layout.carried(arrays),
            context.run_config,
        )

    def settle(self, uploader: SealedUploader) -> Settled | None:
        """Return this node's update of this very model, if it was delivered and still waits."""
        return uploader.settle(self._run_id, self._base_digest)

    def check(self, uploader: SealedUploader) -> None:
        """Raise RunRejected ``RUN_REPEATED`` if this node has contributed to this model."""
        uploader.check(self._run_id, self._base_version, self._base_digest)

    def update_in(self, reply: Message) -> LocalUpdate:
        """Turn the ClientApp's reply into an update.

        Raises
        ------
        UpdateRejected
            BAD_NUM_EXAMPLES.
        EnvelopeRejected
            ENV_MANIFEST.
        """
        num_examples = _examples_in(reply.content, self._weighted_by)
        return LocalUpdate(
            self._run_id,
            self._base_version,
            self._base_digest,
            self._layout.digest,
            self._digest,
            self._delta_in(reply.content),
            num_examples,
        )

    def _delta_in(self, content: RecordDict) -> Vector:
        try:
            trained = self._layout.fit(_only_arrays(content))
        except ManifestMismatch as error:
            raise EnvelopeRejected(Code.ENV_MANIFEST, error.sentence) from None
        except ValueError:
            raise EnvelopeRejected(Code.ENV_MANIFEST) from None
        if not self._replies_deltas:
            # Infinite weights give an infinite or NaN delta, which the enclave refuses by name.
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(trained, self._base, out=trained)
        return trained


def _entries(content: RecordDict) -> ConfigRecord:
    for record in content.config_records.values():
        if flower.RUN_ID in record:
            return record
    raise ConfigInvalid(
        Code.CONFIG_INVALID,
        "the training task names no Asynclave run, so its update would travel unsealed; "
        "use a strategy with gateway=..., or remove the mod",
    )


def _entry(entries: ConfigRecord, key: str, kind: type[Any]) -> Any:
    value = entries.get(key)
    if type(value) is not kind:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"the training task's {key} is not of type {kind.__name__}"
        )
    return value


def _only_arrays(content: RecordDict) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of the one ArrayRecord, as FedAvg wants it; else raise ValueError."""
    (record,) = content.array_records.values()
    return {name: array.numpy() for name, array in record.items()}


def _examples_in(content: RecordDict, key: str) -> int:
    records = list(content.metric_records.values())
    value = records[0].get(key) if len(records) == 1 else None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise UpdateRejected(
        Reject.BAD_NUM_EXAMPLES,
        f"the ClientApp must reply one MetricRecord with a whole number under {key!r}",
    )


def _metrics(content: RecordDict) -> dict[str, dict[str, Any]]:
    return {name: dict(record) for name, record in content.metric_records.items()}


def _records(metrics: Metrics) -> RecordDict:
    return RecordDict({name: MetricRecord(dict(values)) for name, values in metrics.items()})


def _answered(message: Message, reply: RecordDict, uploaded: Uploaded) -> Message:
    return _answer(message, reply, uploaded.receipt.outcome, uploaded.signed)


def _answer(
    message: Message, reply: RecordDict, code: str, signed: Signed | None = None
) -> Message:
    content = RecordDict(dict(reply.metric_records))
    content[flower.RECEIPT] = ConfigRecord(dict(flower.receipt_entries(code, signed)))
    return Message(content, reply_to=message)


def _failed(message: Message, error: AsynclaveError) -> Message:
    return Message(Error(code=_ERROR_CODE, reason=str(error)), reply_to=message)
