"""Recipe and selection policy of a configuration."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.simulation.config import DispatchSection, SimulationConfig, StrategySection
from fl_sim.simulation.intermittent import IntermittentFleet
from fl_sim.simulation.own_recipes import recipe_kind
from fl_sim.simulation.recipe_trial import check_parts, failures_named, try_merges
from strategies.catalog import RECIPES
from strategies.errors import BadOption
from strategies.options import build
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA, buffer_size_for
from strategies.selection import POLICIES, Policy, Selector, TaskHistory, policy_from, selector_for
from strategies.window import Buffer


def recipe_of(config: SimulationConfig) -> Recipe:
    """Return the configured recipe, having tried the options of all.

    Raises
    ------
    UnknownRecipe, BadOption
        If there is no such recipe or option.
    ConfigInvalid
        If options are for no recipe, a buffer of that size can never fill, or a recipe of one's own
        fails on a tiny model.
    """
    section, devices = config.strategy, config.devices
    own = {name for name in section.options if ":" in name}
    _check_names("strategy.options", section.options, RECIPES.keys() | own)
    recipes = {
        name: _recipe(section, name, devices.num_in_flight)
        for name in (*section.options, section.name)
    }
    for name, recipe in recipes.items():
        _check_fills(config, name, recipe)
        if name not in RECIPES:
            try_merges(name, recipe)
    return recipes[section.name]


def check_windows(
    config: SimulationConfig, recipe: Recipe, fleet: IntermittentFleet, seed: int
) -> None:
    """Refuse windows in which nobody comes, or too few for a buffer.

    Raises
    ------
    ConfigInvalid
        If fewer clients than the buffer holds come before the run ends, or none at all.
    """
    end, size = config.run.virtual_time * fleet.median_task, _filling(recipe)
    come = fleet.coming(end)
    run = f"the run ends at {end:g} s (seed {seed})"
    if not come:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"devices.windows: nobody is online before {run}; windows are in seconds, "
            "run.virtual_time in median tasks, of devices.task_seconds each.",
        )
    if size > come:
        raise _never_fills(
            config,
            config.strategy.name,
            size,
            f"the {come} of {len(fleet)} clients that devices.windows has online before {run}; "
            "choose a smaller one or a longer run.virtual_time.",
        )


def _check_fills(config: SimulationConfig, name: str, recipe: Recipe) -> None:
    """Refuse a buffer for which there are too few clients, from the start or after deaths."""
    devices, size = config.devices, _filling(recipe)
    left = devices.clients - round(devices.death_rate * devices.clients)
    if size <= left:
        return
    few = f"devices.clients = {devices.clients}"
    if left < devices.clients:
        few += f", of which devices.death_rate = {devices.death_rate} leaves {left}"
    raise _never_fills(config, name, size, f"{few}; choose a smaller one.")


def _filling(recipe: Recipe) -> int:
    """Return how many clients must contribute before anything is merged; 0 if time merges too."""
    window = recipe.parts().window
    return window.size if isinstance(window, Buffer) and window.max_wait is None else 0


def _never_fills(config: SimulationConfig, name: str, size: int, few: str) -> ConfigInvalid:
    key = size_key(config, name)
    return ConfigInvalid(Code.CONFIG_INVALID, f"{key}: a buffer of {size} never fills with {few}")


def size_key(config: SimulationConfig, name: str) -> str:
    """Return the key that sets the size of a recipe's buffer, the name if there is none."""
    if all(field.name != "buffer_size" for field in fields(recipe_kind(name))):
        return f"strategy.name = {name}"
    own = "buffer_size" in config.strategy.options.get(name, {})
    return f"strategy.options.{name}.buffer_size" if own else "strategy.buffer_size"


def selector_of(config: SimulationConfig, seed: int) -> Selector | None:
    """Return what chooses the clients of one seed; None for the uniform draw.

    Raises
    ------
    UnknownPolicy, BadOption
        If there is no such policy or option.
    ConfigInvalid
        If options are for no policy.
    """
    section = config.dispatch
    _check_names("dispatch.options", section.options, POLICIES)
    for name in section.options:
        _policy(section, name)
    policy = _policy(section, section.policy)
    return selector_for(policy, seed, TaskHistory(section.smoothing, section.recent))


def _check_names(table: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                f"{table}.{name}: nothing has this name; choose from {', '.join(sorted(known))}.",
            )


def _recipe(section: StrategySection, name: str, in_flight: int) -> Recipe:
    kind = recipe_kind(name)
    options: dict[str, Any] = dict(section.options.get(name, {}))
    size = _buffer_size(section, kind, in_flight)
    if size is not None:
        options.setdefault("buffer_size", size)
    try:
        recipe = _built(name, kind, options)
        if "attackers" in options and recipe.parts().robust is None:
            raise BadOption("attackers needs a filter: set robust.")
    except BadOption as error:
        raise BadOption(f"strategy.options.{name}: {error.sentence}") from None
    return recipe


def _built(name: str, kind: type[Any], options: dict[str, Any]) -> Recipe:
    if name in RECIPES:
        known: Recipe = build(name, kind, options)
        return known
    with failures_named(name, but=BadOption):
        own: Recipe = build(name, kind, options)
    check_parts(name, own)
    return own


def _policy(section: DispatchSection, name: str) -> Policy:
    try:
        return policy_from(name, **section.options.get(name, {}))
    except BadOption as error:
        raise BadOption(f"dispatch.options.{name}: {error.sentence}") from None


def _buffer_size(section: StrategySection, kind: type[Any], in_flight: int) -> int | None:
    """Return K as the live strategies choose it; None if the recipe has no such option."""
    options = {field.name: field.default for field in fields(kind)}
    if "buffer_size" not in options:
        return None
    if section.buffer_size is not None:
        return section.buffer_size
    if kind is AsyncWA:
        return buffer_size_for(in_flight)
    default = options["buffer_size"]
    return max(1, min(default, in_flight // 2)) if isinstance(default, int) else None
