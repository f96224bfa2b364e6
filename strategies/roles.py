"""Which arrays of a model are running statistics, as far as their names tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import index
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.update import Vector

Span: TypeAlias = tuple[int, int]
"""First column and the one after the last."""
Indices: TypeAlias = npt.NDArray[np.intp]

# PyTorch's and Keras's names of what normalisation layers keep, and Flax's collection of it.
_MEANS, _VARIANCES = ("running_mean", "moving_mean"), ("running_var", "moving_variance")
_COLLECTION = "batch_stats"


@dataclass(frozen=True)
class Roles:
    """Which columns of a flat model hold running statistics.

    Clients move the weights by a step of training, but statistics of normalisation layers by up
    to all that is missing; a direction that is taken several times over overshoots there, and a
    variance below zero is the end of a model.

    Parameters
    ----------
    means, variances : tuple of Span
        Columns of running means and of running variances, in ascending order.
    """

    means: tuple[Span, ...] = ()
    variances: tuple[Span, ...] = ()

    @classmethod
    def of(cls, arrays: Iterable[tuple[str, int, int]]) -> Roles:
        """Tell from the names of arrays.

        Parameters
        ----------
        arrays : iterable of (name, start, stop)
            Name and columns of each array of the flat model, in order.
        """
        means, variances = [], []
        for name, start, stop in arrays:
            if _is_statistic(name, _MEANS, "mean"):
                means.append((start, stop))
            elif _is_statistic(name, _VARIANCES, "var"):
                variances.append((start, stop))
        return cls(tuple(means), tuple(variances))

    @classmethod
    def restored(cls, saved: Mapping[str, Any], num_params: int) -> Roles:
        """Return the roles that ``asdict`` made a table of, none of an empty one.

        Raises
        ------
        TypeError, ValueError
            It is no such table.
        """
        if not isinstance(saved, Mapping):
            raise TypeError("roles are a table")
        means, variances = (
            _spans(saved.get(kind, ()), num_params) for kind in ("means", "variances")
        )
        return cls(means, variances)

    @property
    def has_statistics(self) -> bool:
        """Whether any columns are known to hold running statistics."""
        return bool(self.means or self.variances)

    def statistics_in(self, columns: slice) -> Statistics | None:
        """Return which of the columns hold statistics; None if none does."""
        if not self.has_statistics:
            return None
        means, variances = _within(self.means, columns), _within(self.variances, columns)
        places = np.concatenate((means, variances))
        return Statistics(places, len(variances)) if places.size else None


class Statistics(NamedTuple):
    """Running statistics among some columns.

    Attributes
    ----------
    places : ndarray of int
        Where they are, counted from the first of the columns.
    num_variances : int
        How many of them, the last, are variances.
    """

    places: Indices
    num_variances: int

    def follow(self, params: Vector, direction: Vector, share: float) -> Vector:
        """Return the statistics after a step along a direction.

        Parameters
        ----------
        params, direction : Vector
            The columns of the model and of the direction.
        share : float
            Length of the step, in [0, 1]. No variance shrinks faster than it would among clients
            that have none.
        """
        before = params[self.places]
        after: Vector = before + np.float32(share) * direction[self.places]
        variances = slice(len(after) - self.num_variances, None)
        least = np.float32(1 - share) * before[variances]
        np.maximum(after[variances], least, out=after[variances])
        return after


def _is_statistic(name: str, endings: tuple[str, ...], in_collection: str) -> bool:
    """Whether a name ends in one of some words, or is such an entry of the collection."""
    if any(name.endswith(word) and name[: -len(word)][-1:] in ("", *"._/") for word in endings):
        return True
    *path, last = name.replace("/", ".").split(".")
    return last == in_collection and _COLLECTION in path


def _within(spans: Iterable[Span], columns: slice) -> Indices:
    found = [
        np.arange(max(start, columns.start), min(stop, columns.stop)) - columns.start
        for start, stop in spans
        if start < columns.stop and columns.start < stop
    ]
    return np.concatenate([np.empty(0, np.intp), *found])


def _spans(saved: Iterable[tuple[int, int]], num_params: int) -> tuple[Span, ...]:
    spans = tuple((index(start), index(stop)) for start, stop in saved)
    borders = [0, *chain.from_iterable(spans), num_params]
    if borders != sorted(borders):
        raise ValueError("statistics that are no columns of the model")
    return spans
