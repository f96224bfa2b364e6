"""What comes up from a client and what a full buffer yields."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.errors import ManifestMismatch
from strategies.reject import Reject

Vector: TypeAlias = npt.NDArray[np.float32]
FLOAT_BYTES = 4
"""What one parameter takes in a `Vector`."""


@dataclass(frozen=True, eq=False)
class ClientUpdate:
    """One client's contribution.

    Parameters
    ----------
    client : str
        Authenticated identity of the client.
    base_version : int
        Version of the model the client trained from.
    delta : Vector
        Trained minus base model, float32, shape ``(P,)``.
    num_examples : int
        Number of training examples behind the update.
    update_id : str
        Unique id chosen by the client; the same on every retry.
    squared_norm : float, optional
        Sum of the delta's squares, where whoever received it took the sum while the values were in
        the processor's cache; taken here when left out.
    """

    client: str
    base_version: int
    delta: Vector
    num_examples: int
    update_id: str
    squared_norm: float | None = None


@dataclass(frozen=True)
class Accepted:
    """The update is in the buffer.

    Parameters
    ----------
    staleness : int
        Versions released since the client's base version.
    pending : int
        Updates waiting for the next merge, this one included.
    """

    staleness: int
    pending: int


@dataclass(frozen=True)
class Rejected:
    """The update was refused and changed nothing.

    Parameters
    ----------
    code : Reject
        Stable reason.
    detail : str
        A sentence the client can act on.
    """

    code: Reject
    detail: str


def digest_of(params: Vector) -> str:
    """Return the SHA-256 of a model.

    Parameters
    ----------
    params : Vector
        Flat model, shape ``(P,)``.

    Returns
    -------
    str
        Hexadecimal digest of the little-endian float32 bytes.
    """
    return hashlib.sha256(np.ascontiguousarray(params, dtype="<f4").data).hexdigest()


def frozen(vector: Vector) -> Vector:
    """Make a vector read-only and return it."""
    vector.flags.writeable = False
    return vector


def initial_model(params: Vector) -> Vector:
    """Return a read-only copy of the model a run starts from.

    Raises
    ------
    ManifestMismatch
        It is not a finite, non-empty float32 vector.
    """
    if params.ndim != 1 or params.dtype != np.float32 or not params.size:
        raise ManifestMismatch("The model must be one flat, non-empty float32 vector.")
    if not np.isfinite(params).all():
        raise ManifestMismatch(
            "The initial model holds NaN or infinite values; start from finite weights."
        )
    return frozen(params.copy())


class _LazyDigest:
    """Field computed on first use.

    Hashing costs more than merging; a window that merges on every upload would pay it each
    time although in plain mode nobody reads it.
    """

    def __get__(self, instance: Any, owner: type | None = None) -> str:
        if instance is None:
            return ""
        stored: str = instance.__dict__["_digest"]
        if not stored:
            stored = instance.__dict__["_digest"] = digest_of(instance.params)
        return stored

    def __set__(self, instance: Any, value: str) -> None:
        instance.__dict__["_digest"] = value


@dataclass(frozen=True, eq=False)
class Merge:
    """A new version of the model.

    Parameters
    ----------
    version : int
        Number of the new version.
    params : Vector
        Read-only model, shape ``(P,)``; never changed afterwards.
    consumed : tuple of str
        Ids of the updates first used in this merge, in order of arrival.
    weights : tuple of float
        Coefficient of each consumed update in the aggregate, before the server learning rate.
    digest : str, optional
        Hexadecimal SHA-256 of the little-endian bytes of ``params``; computed on first use
        when left empty.
    withheld : int
        Updates merged besides `consumed`, whose ids do not leave the enclave.
    """

    version: int
    params: Vector
    consumed: tuple[str, ...]
    weights: tuple[float, ...]
    digest: _LazyDigest = _LazyDigest()
    withheld: int = 0

    @property
    def num_updates(self) -> int:
        """Number of updates first used in this merge."""
        return len(self.consumed) + self.withheld
