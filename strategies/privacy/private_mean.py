"""The noisy weighted sum over a disjoint buffer, exact in integers.

Every update is clipped, weighed and rounded towards zero on a grid of whose steps the release's L2
sensitivity has `RESOLUTION`; from there on all is whole numbers, sums and noise alike. Rounding
towards zero makes no vector longer, so one client changes the sum by no more than the sensitivity,
whatever the number of coordinates (rounding to the nearest would add half a step in each of them:
Kairouz, Liu and Steinke 2021, *The Distributed Discrete Gaussian Mechanism*, section 4). It costs
less than one step per update and coordinate, a millionth of the noise's standard deviation over
the noise multiplier.
"""

from __future__ import annotations

import numpy as np

from strategies.aggregators import Aggregator
from strategies.batch import Batch, normalised_weights
from strategies.errors import BadOption
from strategies.privacy.discrete_gaussian import DiscreteGaussian, Entropy
from strategies.privacy.settings import RESOLUTION, Privacy
from strategies.recipe import Parts
from strategies.robust.clip import clip_scales
from strategies.robust.gram import Floats, lengths
from strategies.update import Vector

# Norms and products are taken in float64; this covers their rounding up to 2^32 parameters.
_SHRINK = 1 - 2.0**-20


class PrivateMean(Aggregator):
    """Weighted sum plus noise.

    Parameters
    ----------
    parts : Parts
        The recipe's parts: weights depend on arrivals alone.
    privacy : Privacy
        Norm bound and noise.
    entropy : callable
        Source of random bytes.
    """

    def __init__(self, parts: Parts, privacy: Privacy, entropy: Entropy) -> None:
        self._parts, self._privacy = parts, privacy
        self._noise = DiscreteGaussian(privacy.scale, entropy)
        self._factors: Floats = np.empty(0)
        self._step = 0.0

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        """Weigh the buffer and lay the grid."""
        weights = normalised_weights(self._parts, batch)
        by_client: dict[str, float] = {}
        for update, weight in zip(batch.updates, weights, strict=True):
            by_client[update.client] = by_client.get(update.client, 0.0) + weight
        if not any(weights):
            raise BadOption("Differential privacy needs an update with a weight above 0.")
        self._step = self._privacy.clip * max(by_client.values()) / RESOLUTION
        scales = clip_scales(lengths(batch.rows), self._privacy.clip)
        self._factors = np.array(weights) * scales * (_SHRINK / self._step)
        return weights

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        """Write the noisy sum."""
        steps = self._noise.sample(len(out))
        for row, factor in zip(batch.rows[:, columns], self._factors, strict=True):
            # The conversion to integers rounds towards zero.
            steps += np.multiply(row, factor, dtype=np.float64).astype(np.int64)
        np.multiply(steps, self._step, out=out, casting="unsafe")

    def commit(self) -> None:
        """End the merge."""


def private_mean(parts: Parts, privacy: Privacy, entropy: Entropy | None) -> PrivateMean:
    """Return the aggregator; raises BadOption if there is no source of noise."""
    if entropy is None:
        raise BadOption("Differential privacy needs a source of random bytes.")
    return PrivateMean(parts, privacy, entropy)
