"""How the server turns an aggregate into a step of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.errors import BadOption
from strategies.update import Vector

Moments = npt.NDArray[np.float32]
# Second moments up to the one and denominators from the other on overflow nowhere.
_LARGEST, _SMALLEST = np.float32(1e30), 1e-20
DelayRule: TypeAlias = Literal["minimum", "division"]


class StepSize(NamedTuple):
    """What a step needs beside vectors.

    Attributes
    ----------
    rate : float
        Learning rate.
    floor : float
        Added to the denominator of an adaptive step.
    ceiling : float
        Bound on that denominator.
    """

    rate: float
    floor: float = 0.0
    ceiling: float = math.inf


class ServerOptimiser(Protocol):
    """Step of the server."""

    def initial(self, num_params: int) -> Moments | None:
        """Return the moments to start from, shape ``(..., num_params)``, or None."""
        ...

    def size(self, merges: int, max_staleness: int, moments: Moments | None) -> StepSize:
        """Return the size of a merge's step.

        Parameters
        ----------
        merges : int
            Merges so far, this one included.
        max_staleness : int
            Staleness of its oldest update.
        moments : ndarray or None
            All moments, as the merge before left them.
        """
        ...

    def step(
        self,
        params: Vector,
        aggregate: Vector,
        moments: Moments | None,
        out: Vector,
        size: StepSize,
    ) -> None:
        """Write the next model into ``out``.

        All arrays cover the same columns. ``aggregate`` is used as scratch space and
        ``moments`` is updated in place.
        """
        ...


@dataclass(frozen=True)
class ServerSgd:
    """x <- x + lr * m with m <- momentum * m + aggregate.

    Reddi et al., *Adaptive Federated Optimization* (2003.00295), algorithm 1 with SGD; momentum
    as in FedAvgM (Hsu et al., 1909.06335).

    Parameters
    ----------
    lr : float
        Server learning rate.
    momentum : float
        0 keeps no state.
    """

    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.lr)
        if not 0 <= self.momentum < 1:
            raise BadOption("The server momentum must lie in [0, 1).")

    def initial(self, num_params: int) -> Moments | None:
        """Return the momentum to start from, None without momentum."""
        return np.zeros(num_params, np.float32) if self.momentum else None

    def size(self, merges: int, max_staleness: int, moments: Moments | None) -> StepSize:
        """Return the learning rate, whatever the staleness."""
        return StepSize(self.lr)

    def step(
        self,
        params: Vector,
        aggregate: Vector,
        moments: Moments | None,
        out: Vector,
        size: StepSize,
    ) -> None:
        """Write the next model into ``out``."""
        if moments is not None:
            np.multiply(moments, np.float32(self.momentum), out=moments)
            np.add(moments, aggregate, out=moments)
            np.copyto(aggregate, moments)
        np.multiply(aggregate, np.float32(size.rate), out=aggregate)
        np.add(params, aggregate, out=out)


@dataclass(frozen=True)
class ServerAmsGrad:
    """x <- x + rate * m / (sqrt(max v) + epsilon), with moments m and v of the aggregate.

    Reddi et al., *On the Convergence of Adam and Beyond* (ICLR 2018), algorithm 2, without bias
    correction. The rate adapts to delay as in FADAS (Wang et al., ICML 2024): ``lr`` up to
    ``delay_threshold``, beyond it min(lr, 1 / tau) or lr / tau. Keeps 3 P floats.

    Parameters
    ----------
    lr : float
        Learning rate.
    beta1, beta2 : float
        Decay of the first and the second moment.
    epsilon : float
        Keeps the division finite.
    delay_threshold : int, optional
        Staleness of the oldest update that costs nothing; None never lowers the rate.
    delay_rule : {"minimum", "division"}
        min(lr, 1 / tau) or lr / tau beyond the threshold.
    """

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    delay_threshold: int | None = None
    delay_rule: DelayRule = "minimum"

    def __post_init__(self) -> None:
        check_rate(self.lr)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise BadOption("beta1 and beta2 must lie in [0, 1).")
        if not 1e-20 <= self.epsilon <= 1:
            raise BadOption("epsilon must lie between 1e-20 and 1.")
        if self.delay_threshold is not None and (
            type(self.delay_threshold) is not int or self.delay_threshold < 1
        ):
            raise BadOption("The delay threshold must be an integer of at least 1.")
        if self.delay_rule not in ("minimum", "division"):
            raise BadOption('delay_rule must be "minimum" or "division".')

    def initial(self, num_params: int) -> Moments | None:
        """Return m, v and max v to start from, shape ``(3, num_params)``."""
        return np.zeros((3, num_params), np.float32)

    def size(self, merges: int, max_staleness: int, moments: Moments | None) -> StepSize:
        """Return the delay-adaptive learning rate and epsilon."""
        return StepSize(self._rate(max_staleness), self.epsilon)

    def step(
        self,
        params: Vector,
        aggregate: Vector,
        moments: Moments | None,
        out: Vector,
        size: StepSize,
    ) -> None:
        """Write the next model into ``out``."""
        assert moments is not None
        first, second, largest = moments
        first *= np.float32(self.beta1)
        np.multiply(aggregate, np.float32(1 - self.beta1), out=out)
        first += out
        second *= np.float32(self.beta2)
        np.multiply(aggregate, np.float32(1 - self.beta2), out=out)
        # An infinite second moment stops its coordinate, as a very large one would.
        with np.errstate(over="ignore"):
            out *= aggregate
        second += out
        np.maximum(largest, second, out=largest)
        np.sqrt(largest, out=aggregate)
        aggregate += np.float32(size.floor)
        np.divide(first, aggregate, out=aggregate)
        aggregate *= np.float32(size.rate)
        np.add(params, aggregate, out=out)

    def _rate(self, max_staleness: int) -> float:
        if self.delay_threshold is None or max_staleness <= self.delay_threshold:
            return self.lr
        if self.delay_rule == "division":
            return self.lr / max_staleness
        return min(self.lr, 1.0 / max_staleness)


@dataclass(frozen=True)
class ServerRms:
    """x <- x + max(rate / (sqrt(v) + floor), least) * u, v <- decay * v + (1 - decay) * u * u.

    RMSProp (Tieleman and Hinton, 2012, lecture 6.5) on the aggregate u, with the bias correction
    of Adam (Kingma and Ba, 1412.6980, section 3); as a server optimiser in Reddi et al.,
    *Adaptive Federated Optimization* (2003.00295). After t merges rate = lr * sqrt(1 - decay ** t);
    floor = epsilon * rms(v) of the merge before, so that the step does not depend on the scale of
    small deltas: neither on the clients' learning rate nor on how many steps they take. Large
    ones, such as those of running statistics of a normalisation layer, move the model by
    ``least`` of themselves. Keeps P floats.

    Parameters
    ----------
    lr : float
        Learning rate: length of the step per coordinate, about.
    decay : float
        Decay of the second moment per merge.
    epsilon : float
        Coordinates much smaller than this share of the rms move proportionally less.
    least : float
        The step is no shorter than this share of the aggregate.
    """

    lr: float = 0.01
    decay: float = 0.9
    epsilon: float = 0.1
    least: float = 0.0

    def __post_init__(self) -> None:
        check_rate(self.lr)
        if not 0 <= self.decay < 1:
            raise BadOption("The decay of the second moment must lie in [0, 1).")
        if not 1e-20 <= self.epsilon <= 1e6:
            raise BadOption("epsilon must lie between 1e-20 and 1,000,000.")
        if not 0 <= self.least <= 1e6:
            raise BadOption("The least step must lie between 0 and 1,000,000.")

    def initial(self, num_params: int) -> Moments | None:
        """Return v to start from, shape ``(num_params,)``."""
        return np.zeros(num_params, np.float32)

    def size(self, merges: int, max_staleness: int, moments: Moments | None) -> StepSize:
        """Return rate and bounds of the denominator, whatever the staleness."""
        assert moments is not None
        rms = math.sqrt(float(moments.mean()))
        rate = self.lr * math.sqrt(1.0 - self.decay**merges)
        ceiling = rate / self.least if self.least else math.inf
        return StepSize(rate, max(self.epsilon * rms, _SMALLEST), ceiling)

    def step(
        self,
        params: Vector,
        aggregate: Vector,
        moments: Moments | None,
        out: Vector,
        size: StepSize,
    ) -> None:
        """Write the next model into ``out``."""
        assert moments is not None
        moments *= np.float32(self.decay)
        np.multiply(aggregate, np.float32(1 - self.decay), out=out)
        with np.errstate(over="ignore"):
            out *= aggregate
        moments += out
        np.minimum(moments, _LARGEST, out=moments)
        np.sqrt(moments, out=out)
        out += np.float32(size.floor)
        np.minimum(out, np.float32(size.ceiling), out=out)
        np.divide(aggregate, out, out=aggregate)
        aggregate *= np.float32(size.rate)
        np.add(params, aggregate, out=out)


def check_rate(lr: float) -> None:
    """Raise BadOption unless ``lr`` is a usable learning rate: far from the least of float32."""
    if not 1e-20 <= lr <= 1e6:
        raise BadOption("The server learning rate must lie between 1e-20 and 1,000,000.")
