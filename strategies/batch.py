"""The updates of one merge and how they are weighed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from strategies.errors import BadOption
from strategies.population import Population
from strategies.recipe import Parts
from strategies.release import ReleaseRule
from strategies.update import ClientUpdate, Vector


class Pending(NamedTuple):
    """What the engine keeps of an accepted update beside its row.

    Staleness cannot change while the update waits: the version only moves at a merge, which
    consumes it.
    """

    client: str
    base_version: int
    num_examples: int
    update_id: str
    staleness: int

    @classmethod
    def of(cls, update: ClientUpdate, staleness: int) -> Pending:
        """Keep what is left to know once the delta has been stored."""
        return cls(
            update.client, update.base_version, update.num_examples, update.update_id, staleness
        )


@dataclass(frozen=True)
class Batch:
    """Everything one merge works on.

    Parameters
    ----------
    updates : tuple of Pending
        The updates in order of arrival.
    rows : ndarray, float32, shape (len(updates), P)
        Their deltas; the merge may overwrite them.
    params : Vector
        The current model.
    clients : int
        Size of the population, the uploading clients included.
    departed : tuple of str
        Clients that left since the last merge.
    rule : ReleaseRule, optional
        The release rule in force.
    staleness : tuple of float
        Staleness of each update, or of its client on average where the recipe asks for that.
    round_uploads : float
        Uploads in a round where the recipe's gain asks for that, see `RoundGain`.
    """

    updates: tuple[Pending, ...]
    rows: npt.NDArray[np.float32]
    params: Vector
    clients: int
    departed: tuple[str, ...]
    rule: ReleaseRule | None
    staleness: tuple[float, ...]
    round_uploads: float = 0.0


def gather(
    waiting: Sequence[Pending],
    rows: npt.NDArray[np.float32],
    params: Vector,
    population: Population,
    parts: Parts,
    rule: ReleaseRule | None,
) -> Batch:
    """Return what a merge of the waiting updates works on, and note their clients' uploads.

    Parameters
    ----------
    waiting : sequence of Pending
        The updates in order of arrival.
    rows : ndarray, float32, shape (len(waiting), P)
        Their deltas.
    params : Vector
        The current model, shape ``(P,)``.
    population : Population
        Is told of the uploads and forgets who has left.
    parts : Parts
        The recipe's parts.
    rule : ReleaseRule, optional
        The release rule in force.

    Returns
    -------
    Batch
    """
    clients = [update.client for update in waiting]
    for client in clients:
        population.touch(client)
    departed = tuple(population.expire(keep=set(clients)))
    staleness: tuple[float, ...] = tuple(update.staleness for update in waiting)
    if parts.average_staleness:
        staleness = population.mean_staleness_after(waiting)
    return Batch(
        tuple(waiting),
        rows,
        params,
        population.size,
        departed,
        rule,
        staleness,
        population.round_uploads(),
    )


def last_words(
    updates: Sequence[Pending], among: Iterable[int] | None = None
) -> tuple[list[int], dict[str, int]]:
    """Return the updates' indices from old to new base, and the newest one's by client.

    Only those `among` the updates when given.
    """
    chosen = range(len(updates)) if among is None else among
    order = sorted(chosen, key=lambda index: updates[index].base_version)
    return order, {updates[index].client: index for index in order}


def raw_weights(parts: Parts, batch: Batch) -> list[float]:
    """Return volume times freshness of each update, before any normalisation.

    Raises
    ------
    BadOption
        A weight is negative or not finite.
    """
    scale = parts.uploads_per_merge / batch.clients if parts.relative_staleness else 1.0
    weights = [
        parts.volume.weight(update.num_examples) * parts.freshness.weight(staleness * scale)
        for update, staleness in zip(batch.updates, batch.staleness, strict=True)
    ]
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise BadOption(f"A recipe must weigh updates by finite numbers from 0, not {weight}.")
    return weights


def normalised_weights(parts: Parts, batch: Batch) -> tuple[float, ...]:
    """Return the coefficients of the updates: capped, then divided as the recipe says.

    All are 0 when no update weighs anything, so that the updates move nothing.

    Raises
    ------
    BadOption
        A weight is negative or not finite, or none is above 0 under a release rule.
    """
    raw = raw_weights(parts, batch)
    if not any(raw):
        if batch.rule is not None:
            raise BadOption("Under a release rule a recipe must give some update a weight above 0.")
        return tuple(raw)
    divisor = sum(raw) if parts.normalise == "sum" else float(len(raw))
    if batch.rule is not None:
        raw = list(batch.rule.even_weights([update.client for update in batch.updates], raw))
    return tuple(weight / divisor for weight in raw)
