"""Leverage of single updates: how well releases give them away, recipe by recipe.

``python -m experiments.leverage`` runs the engine on unit vectors, so that the differences of its
models *are* the public coefficients, and writes ``docs/experiments/leverage.md``.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strategies.catalog import RECIPES, recipe_from
from strategies.engine import Engine, Limits
from strategies.guard import HORIZON
from strategies.leverage import Coefficients, leverage, worst_leverage
from strategies.recipe import Parts, Recipe
from strategies.release import ReleaseRule
from strategies.server_optimiser import ServerSgd
from strategies.update import Accepted, ClientUpdate

PAGE = Path(__file__).parents[1] / "docs" / "experiments" / "leverage.md"
FLEETS = ((20, 5), (60, 10))
BOUNDS = (None, 0.9, 0.7, 0.5)
_USUAL = 0.7
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

    Returns
    -------
    Observed
    """
    most = most_updates or 4 * releases * recipe.parts().uploads_per_merge
    rng = np.random.default_rng(seed)
    speeds = rng.lognormal(sigma=_SIGMA, size=clients)
    origin = np.zeros(most, np.float32)
    limits = Limits(max_staleness=10**6)
    engine = Engine(recipe, origin, limits=limits, release_rule=rule)
    models, published, sizes = [engine.params], [engine.published], []
    senders: list[int] = []
    discarded = 0
    for client, base in _uploads(engine, speeds, rng):
        update = ClientUpdate(str(client), base, _unit(len(senders), most), 1, str(len(senders)))
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


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    sections = [
        _section(clients, k, arguments.releases, range(arguments.seeds)) for clients, k in FLEETS
    ]
    text = _TEXT.format(
        releases=arguments.releases,
        seeds=arguments.seeds,
        horizon=HORIZON,
        usual=_USUAL,
        sections="\n".join(sections),
        understatement=_understatement(arguments.releases, range(arguments.seeds)),
    )
    PAGE.write_text(text, encoding="utf-8")


def _section(clients: int, k: int, releases: int, seeds: Sequence[int]) -> str:
    lines = [
        f"## {clients} clients, K = k = {k}",
        "",
        f"| recipe | bound | nobody colludes | the {k - 1} fastest | the worst {k - 1} found "
        "| exposed | updates per release | buffers given up |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, recipe in sorted(confidential_recipes(k).items()):
        for bound in BOUNDS:
            rule = ReleaseRule(k, max_leverage=bound)
            runs = [
                observe(Aggregates(recipe), clients, releases, rule=rule, seed=seed)
                for seed in seeds
            ]
            lines.append(_row(name, bound, runs, k - 1, releases))
            print(lines[-1], flush=True)
    return "\n".join([*lines, ""])


def _row(name: str, bound: float | None, runs: list[Observed], size: int, releases: int) -> str:
    label = f"| {name} | {'none' if bound is None else bound} "
    if any(len(run.sizes) < releases for run in runs):
        reached = ", ".join(str(len(run.sizes)) for run in runs)
        return label + f"| stands still after {reached} releases | | | | | |"
    nobody = max(run.leverage().max() for run in runs)
    fastest = max(run.leverage(run.fastest[:size].tolist()).max() for run in runs)
    worst = [worst_leverage(run.releases(), size) for run in runs]
    highest = max(max(found.values()) for found in worst)
    exposed = sum(value > 0.999 for found in worst for value in found.values())
    updates = sum(len(found) for found in worst)
    mean_size = np.mean([size for run in runs for size in run.sizes])
    given_up = sum(run.discarded for run in runs)
    return label + (
        f"| {nobody:.2f} | {fastest:.2f} | {highest:.2f} | {exposed} of {updates} "
        f"| {mean_size:.2f} | {given_up} |"
    )


def _understatement(releases: int, seeds: Sequence[int]) -> str:
    """Compare the leverage within the horizon with that over the whole run."""
    lines = ["| recipe | clients | largest understatement | mean |", "|---|---|---|---|"]
    for clients, k in FLEETS:
        for name in ("async-wa", "ca2fl"):
            recipe = confidential_recipes(k)[name]
            differences: list[float] = []
            for seed in seeds:
                rule = ReleaseRule(k, max_leverage=_USUAL)
                run = observe(recipe, clients, releases, rule=rule, seed=seed)
                differences += _differences(run.releases(), k - 1)
            lines.append(
                f"| {name} | {clients} | {max(max(differences), 0.0):.3f} "
                f"| {np.mean(np.maximum(differences, 0.0)):.3f} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _differences(releases: list[Coefficients], colluders: int) -> list[float]:
    seen: dict[tuple[str, int], float] = {}
    for end in range(1, len(releases) + 1):
        latest = releases[max(0, end - HORIZON) : end]
        found = worst_leverage(latest, colluders, suspected_by_latest=True)
        seen |= {key: max(value, seen.get(key, 0.0)) for key, value in found.items()}
    whole = worst_leverage(releases, colluders)
    return [value - seen[key] for key, value in whole.items()]


_TEXT = """# Leverage of single updates

`python -m experiments.leverage --releases {releases} --seeds {seeds}` writes this page.

The coefficients with which a release sums up its updates are public. The *leverage* of an update
is the squared norm of its unit vector projected onto the row space of those coefficients: 1 means
that it can be solved for, 0 that nothing about it can. With clients that collude, their own
updates are known and drop out of the system.

The real engine runs on unit vectors, so that its output is the coefficient matrix; the fleet's
speeds are lognormal (sigma 1.2) and everyone is always at work. Each figure is the largest of any
update over {seeds} seeds of {releases} releases, taken over *all* releases of the run. "Worst
found" chooses another coalition for every update (see `strategies/leverage.py`): exact for
recipes without cached deltas, a lower bound for `async-wa` and `ca2fl`. "Exposed" counts updates
that this coalition can solve for. The recipes' server step is left out: what is released is a
function of the aggregates, so who sees them sees no less.

"Bound" is `max_leverage` of the release rule. A buffer that would pass it takes in further
updates, at most k more, and is then given up. "Stands still" means that hardly any buffer met the
bound: it is too tight for the recipe and the fleet.

{sections}
## What the horizon leaves out

With cached deltas an update is in several releases. The enclave looks at the latest {horizon}
together, so that a release costs the same after thousands as after {horizon}: an update that left
the cache is in no later release and gains only by way of the others. This is by how much the
largest leverage that the enclave sees of an update, as the horizon passes by, falls short of that
over the whole run, with a bound of {usual} in force:

{understatement}
"""


if __name__ == "__main__":
    main()
