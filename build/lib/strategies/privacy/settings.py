"""What is promised about what releases tell of any one client, and which recipes can keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from strategies.errors import BadOption, UnprivateRecipe
from strategies.privacy.accountant import epsilon_of, most_releases
from strategies.recipe import Recipe
from strategies.window import Buffer

RESOLUTION = 1 << 20
"""Grid steps to the L2 sensitivity of a release."""

_LEAST_NOISE, _MOST_NOISE, _LARGEST = 0.01, 1000.0, 1e6


@dataclass(frozen=True)
class Privacy:
    """User-level differential privacy of all releases of a run.

    Neighbours are two runs with the same arrivals (who, when, from which version, with which
    claimed number of examples), in one of which the content of all of one client's updates is
    zeros: the arrivals are open to the host in any case. No credit is taken for chance in who
    takes part: the order of arrival is no random sample.

    Parameters
    ----------
    clip : float
        L2 norm to which every longer update is shortened.
    noise_multiplier : float
        Standard deviation of the noise in each coordinate over the L2 sensitivity of the release,
        from 0.01 to 1000.
    delta : float
        Between 0 and 1; choose it far below one over the number of clients.
    max_epsilon : float
        What no client's content may exceed over all releases of a run.

    Raises
    ------
    BadOption
        A parameter is out of range, or the bound does not allow for a single release.
    """

    clip: float
    noise_multiplier: float
    delta: float
    max_epsilon: float

    def __post_init__(self) -> None:
        for name in ("clip", "noise_multiplier", "delta", "max_epsilon"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= _LARGEST:
                raise BadOption(
                    f"{name} of differential privacy must be positive and at most a million."
                )
        if not self.delta < 1:
            raise BadOption("delta of differential privacy must be below 1.")
        if not _LEAST_NOISE <= self.noise_multiplier <= _MOST_NOISE:
            raise BadOption("noise_multiplier must lie between 0.01 and 1000.")
        if not self.releases_per_client:
            raise BadOption(
                f"One release alone spends epsilon = {self.epsilon_after(1):.3g}, more than "
                f"max_epsilon = {self.max_epsilon:g}: raise noise_multiplier or max_epsilon."
            )

    @property
    def scale(self) -> int:
        """Scale of the noise in grid steps."""
        return math.ceil(self.noise_multiplier * RESOLUTION)

    @property
    def rho(self) -> float:
        """What one release spends of a client that is in it, in zCDP."""
        return RESOLUTION**2 / (2 * self.scale**2)

    @property
    def releases_per_client(self) -> int:
        """Releases that may hold content of one and the same client."""
        return most_releases(self.rho, self.delta, self.max_epsilon)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Privacy:
        """Read what `texts` wrote; raises KeyError, TypeError, ValueError or BadOption."""
        return cls(**{name: float(text) for name, text in texts.items()})

    def texts(self) -> dict[str, str]:
        """Return the parameters as strings, each float in its shortest exact form."""
        return {name: repr(float(value)) for name, value in asdict(self).items()}

    def stated(self, releases: int) -> str:
        """Return `epsilon_after` as a decimal with six places, rounded up."""
        millionths = math.ceil(self.epsilon_after(releases) * 1e6)
        return f"{millionths // 10**6}.{millionths % 10**6:06d}"

    def epsilon_after(self, releases: int) -> float:
        """Return the epsilon, at `delta`, of a client whose content is in so many releases."""
        return epsilon_of(releases * self.rho, self.delta)


def refuse_unprivate(recipe: Recipe, privacy: Privacy | None) -> None:
    """Raise unless the sensitivity of a recipe's releases is known.

    Raises
    ------
    UnprivateRecipe
        An update goes into several releases, or counts by its content or number of examples.
    """
    if privacy is None:
        return
    parts = recipe.parts()
    reasons = (
        (
            parts.upload is not None or not isinstance(parts.window, Buffer),
            "puts an update into several releases, or merges it on its own",
        ),
        (
            parts.drift is not None,
            "puts an update into several releases, by caching every client's last delta",
        ),
        (
            parts.robust is not None,
            "filters updates by content; those too long are shortened by clip of dp",
        ),
        (
            parts.volume.exponent != 0,
            "weighs updates by their number of examples, which is data of the client; "
            "set its exponent to 0",
        ),
    )
    for applies, reason in reasons:
        if applies:
            raise UnprivateRecipe(
                f"{recipe.name} {reason}. With differential privacy use disjoint buffers without "
                "cached deltas, as in FedBuff and FADAS."
            )
