"""What a client has trained, and what came back for it."""

from __future__ import annotations

from dataclasses import dataclass

from fl_protocol.receipts import Receipt
from fl_protocol.signatures import Signed
from strategies.update import Vector


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """What a client has trained.

    Attributes
    ----------
    run_id : str
        The run.
    base_version : int
        Version of the model trained from.
    base_digest : str
        Hex SHA-256 of that model's little-endian float32 bytes.
    manifest_digest : str
        Digest of the model's `Layout`.
    task_digest : str
        `fl_protocol.task.task_digest` of the training task.
    delta : ndarray of float32, shape (P,)
        Trained minus base model.
    num_examples : int
        Examples behind the update.
    """

    run_id: str
    base_version: int
    base_digest: str
    manifest_digest: str
    task_digest: str
    delta: Vector
    num_examples: int


@dataclass(frozen=True)
class Uploaded:
    """The enclave's verified answer and its signed form, for whoever wants to check it again."""

    receipt: Receipt
    signed: Signed
