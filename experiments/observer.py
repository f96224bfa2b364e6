"""What an observer of the releases learns: the engine run on unit vectors.

The differences of its models *are* the public coefficients of the updates then.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from strategies.catalog import RECIPES, recipe_from
from strategies.engine import Engine, Limits
from strategies.leverage import Coefficients, leverage, worst_leverage
from strategies.recipe import Parts, Recipe
from strategies.release import ReleaseRule
from strategies.server_optimiser import ServerSgd
from strategies.update import Accepted, ClientUpdate

# Lognormal speeds of sigma 1.2: the fastest of 20 devices uploads some 100 times as often as the
# slowest.
_SIGMA = 1.2
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Aggregates:
    """A recipe whose released model is the sum of the aggregates, whatever its server step.

    The released models are a function of the aggregates, so who sees the aggregates sees no less.
    """

    recipe: Recipe

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.recipe.name

    @property
    def disjoint(self) -> bool:
        """As of the recipe."""
        return self.recipe.disjoint

    def parts(self) -> Parts:
        """Return the recipe's parts with a plain server step."""
        return replace(self.recipe.parts(), server=ServerSgd(), gain=None)

    def options(self) -> dict[str, str]:
        """Return the recipe's options."""
        return self.recipe.options()


@dataclass(frozen=True)
class Observed:
    """What an observer knows of a run.

    Parameters
    ----------
    coefficients : ndarray, float64, shape (releases, updates)
        Coefficient of each released update in each difference of successive models.
    published : ndarray, float64, shape (releases, updates)
        The same of the published models.
    senders : ndarray, int, shape (updates,)
        Client of each update.
    fastest : ndarray, int, shape (clients,)
        Clients from the fastest to the slowest.
    sizes : list of int
        Updates in each release.
    discarded : int
        Buffers that were given up.
    """

    coefficients: Floats
    published: Floats
    senders: npt.NDArray[np.intp]
    fastest: npt.NDArray[np.intp]
    sizes: list[int]
    discarded: int

    def leverage(self, coalition: Sequence[int] = ()) -> Floats:
        """Return the leverage of the updates of all others when a coalition shares its own."""
        return leverage(self.coefficients[:, ~np.isin(self.senders, coalition)])

    def releases(self) -> list[Coefficients]:
        """Return the coefficients by client and update."""
        keys = [(str(client), update) for update, client in enumerate(self.senders)]
        return [
            {keys[update]: float(row[update]) for update in np.flatnonzero(row)}
            for row in self.coefficients
        ]

    def worst(self, colluders: int) -> float:
        """Return the largest leverage of an update under the coalition found to be worst."""
        return max(worst_leverage(self.releases(), colluders).values())


def observe(
    recipe: Recipe,
    clients: int,
    releases: int,
    *,
    rule: ReleaseRule | None = None,
    seed: int = 0,
    most_updates: int | None = None,
    spread: float = 1.0,
) -> Observed:
    """Run a recipe on a fleet of unequal devices that are always at work.

    Parameters
    ----------
    recipe : Recipe
        The aggregation rule.
    clients : int
        Number of devices.
    releases : int
        Releases to observe; fewer when `most_updates` were accepted before.
    rule : ReleaseRule, optional
        The release rule in force.
    seed : int
        Of speeds and arrivals.
    most_updates : int, optional
        Four times as many as fit into the releases by default.
    spread : float
        Sigma of the lognormal law of the clients' numbers of examples; 0 for equal ones.

    Returns
    -------
    Observed
    """
    most = most_updates or 4 * releases * recipe.parts().uploads_per_merge
    rng = np.random.default_rng(seed)
    speeds = rng.lognormal(sigma=_SIGMA, size=clients)
    examples = np.ceil(150 * rng.lognormal(sigma=spread, size=clients)).astype(int)
    origin = np.zeros(most, np.float32)
    limits = Limits(max_staleness=10**6)
    engine = Engine(recipe, origin, limits=limits, release_rule=rule)
    models, published, sizes = [engine.params], [engine.published], []
    senders: list[int] = []
    discarded = 0
    for client, base in _uploads(engine, speeds, rng):
        unit, number = _unit(len(senders), most), int(examples[client])
        update = ClientUpdate(str(client), base, unit, number, str(len(senders)))
        answer = engine.offer(update, 0.0)
        discarded += not isinstance(answer, Accepted) and answer.code == "LEVERAGE_BOUND"
        if isinstance(answer, Accepted):
            senders.append(client)
        if engine.ready(0.0):
            sizes.append(engine.pending)
            models.append(engine.merge(0.0).params)
            published.append(engine.published)
        if len(sizes) == releases or len(senders) == most:
            break
    differences = np.diff(np.array(models, np.float64), axis=0)
    used = np.flatnonzero(np.abs(differences).sum(axis=0))
    return Observed(
        differences[:, used],
        np.diff(np.array(published, np.float64), axis=0)[:, used],
        np.array(senders, np.intp)[used],
        np.argsort(speeds),
        sizes,
        discarded,
    )


def _uploads(engine: Engine, speeds: Floats, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yield client and base version of each upload; everyone starts again at once."""
    tasks = [(speed * rng.exponential(), client, 0) for client, speed in enumerate(speeds)]
    heapq.heapify(tasks)
    while True:
        done, client, base = heapq.heappop(tasks)
        yield client, base
        again = done + speeds[client] * rng.exponential()
        heapq.heappush(tasks, (again, client, engine.version))


def _unit(index: int, length: int) -> npt.NDArray[np.float32]:
    vector = np.zeros(length, np.float32)
    vector[index] = 1.0
    return vector


def confidential_recipes(buffer_size: int) -> dict[str, Recipe]:
    """Return every recipe of the catalogue that a release rule allows, with default options."""
    recipes = {
        name: recipe_from(name, buffer_size=buffer_size)
        for name in RECIPES
        if recipe_from(name).disjoint
    }
    return recipes | {"async-wa": recipe_from("async-wa", buffer_size=buffer_size, disjoint=True)}
