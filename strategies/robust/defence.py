"""Carrying a filter out on a buffer: first whole updates, then block by block.

Whatever the filter, it leaves weights and rows behind of which the recipe goes on to take its
weighted mean: an update left out has the weight 0, one that is too long is scaled, and values left
out in a coordinate are replaced. So cached deltas hold filtered updates only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from strategies.batch import Batch, last_words
from strategies.release import ReleaseRule
from strategies.robust.clip import clip_scales
from strategies.robust.gram import Floats, Rows, inner_products, lengths
from strategies.robust.krum import multi_krum
from strategies.robust.robustness import Robustness
from strategies.robust.trimmed_mean import replace_extremes
from strategies.robust.trusted_direction import trust
from strategies.update import Vector

_REFERENCE = "trusted_direction"


class Defence:
    """One recipe's filter and what it remembers.

    Parameters
    ----------
    robustness : Robustness
        The filter and its parameters.
    """

    def __init__(self, robustness: Robustness) -> None:
        self._robustness = robustness
        self._reference: Vector | None = None
        self._scales: npt.NDArray[np.float32] | None = None
        self._weights: Floats = np.empty(0)

    def weigh(self, batch: Batch, weights: tuple[float, ...]) -> tuple[float, ...]:
        """Judge whole updates.

        Parameters
        ----------
        batch : Batch
            The buffer; its rows are not changed.
        weights : tuple of float
            Weight of each update by the recipe.

        Returns
        -------
        tuple of float
            Weights with the same sum, 0 for an update that is left out; all 0 when every one is.
        """
        scales = np.ones(len(weights))
        given = np.array(weights)
        if self._robustness.clip_norm is not None:
            scales = clip_scales(lengths(batch.rows), self._robustness.clip_norm)
        if self._robustness.kind == "krum":
            given = self._by_neighbours(batch, scales, given)
        elif self._robustness.kind == "trusted-direction":
            given = self._by_direction(batch, scales, given)
        self._weights = given
        self._scales = scales.astype(np.float32) if (scales != 1.0).any() else None
        return tuple(given.tolist())

    def apply(self, rows: Rows) -> None:
        """Scale a block of the buffer's columns and replace what is left out of it.

        Parameters
        ----------
        rows : ndarray, float32, shape (m, columns)
            Changed in place.
        """
        if self._scales is not None:
            rows *= self._scales[:, None]
        replace_extremes(rows, self._weights, self._robustness.cut(len(rows)))

    def state(self) -> tuple[Any, dict[str, Vector]]:
        """Return what is remembered, as JSON data and independent copies of arrays."""
        if self._reference is None:
            return {"trusts": False}, {}
        return {"trusts": True}, {_REFERENCE: self._reference.copy()}

    def shapes(self, meta: Any, num_params: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays that belong to saved JSON data."""
        return {_REFERENCE: (num_params,)} if meta["trusts"] else {}

    def restore(self, meta: Any, arrays: dict[str, Vector]) -> None:
        """Continue from what :meth:`state` returned."""
        self._reference = arrays[_REFERENCE].copy() if meta["trusts"] else None

    def _by_neighbours(self, batch: Batch, scales: Floats, weights: Floats) -> Floats:
        count = len(weights)
        suspects = self._robustness.suspects(count)
        products = inner_products(batch.rows, batch.rows) * np.outer(scales, scales)
        # Under a release rule the updates chosen must be enough without the others.
        chosen = max(count - suspects, batch.rule.k if batch.rule else 1)
        kept = multi_krum(products, suspects, chosen)
        return _reweighed(batch, np.where(kept, weights, 0.0), weights.sum(), batch.rule)

    def _by_direction(self, batch: Batch, scales: Floats, weights: Floats) -> Floats:
        """Weigh by trust, and change the scales so that all updates become equally long."""
        index = last_words(batch.updates)[1].get(self._robustness.trusted_client or "")
        if index is not None:
            self._reference = batch.rows[index] * np.float32(scales[index])
        if self._reference is None:
            return np.zeros_like(weights)
        scores, scales[:] = trust(batch.rows, self._reference)
        return _reweighed(batch, weights * scores, weights.sum(), None)


def _reweighed(batch: Batch, weights: Floats, total: float, rule: ReleaseRule | None) -> Floats:
    """Scale weights to a sum, those of the updates left in capped by the release rule."""
    if not weights.any():
        return weights
    weights = weights * (total / weights.sum())
    if rule is not None:
        inside = np.flatnonzero(weights)
        clients = [batch.updates[index].client for index in inside]
        weights[inside] = rule.even_weights(clients, weights[inside].tolist())
    return weights
