"""Refuses options that make no sense, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from flwr.app import ArrayRecord, ConfigRecord

from fl_protocol.codes import Code, ConfigInvalid
from fl_server.intake.plain import Replies
from strategies.recipe import Recipe
from strategies.release import ReleaseRule
from strategies.screening import Limits

if TYPE_CHECKING:
    from fl_server.strategy.async_strategy import AsyncStrategy

_KEYS = ("weighted_by_key", "arrayrecord_key", "configrecord_key")
_MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")

_Fits = Callable[[object], bool]


def _is(kind: type) -> _Fits:
    return lambda value: isinstance(value, kind)


def _none_or(fits: _Fits) -> _Fits:
    return lambda value: value is None or fits(value)


def _is_folder(value: object) -> bool:
    # The path of an empty string is the working directory.
    return isinstance(value, Path) or (isinstance(value, str) and value != "")


def _is_gateway(value: object) -> bool:
    # Its bundle's type is not known in plain mode, which must not need what the gateway needs.
    return _is_folder(value) or hasattr(value, "records_dir")


def _selects(value: object) -> bool:
    return isinstance(value, str) or (hasattr(value, "weights") and not isinstance(value, type))


def _are_callable(value: object) -> bool:
    return isinstance(value, Sequence) and all(map(callable, value))


_KINDS: Mapping[str, tuple[_Fits, str]] = {
    "train_metrics_aggr_fn": (_none_or(callable), "a function"),
    "evaluate_metrics_aggr_fn": (_none_or(callable), "a function"),
    "limits": (_none_or(_is(Limits)), "Limits"),
    "release_rule": (_none_or(_is(ReleaseRule)), "a ReleaseRule"),
    "cache_folder": (_none_or(_is_folder), "the path of a folder"),
    "state_folder": (_none_or(_is_folder), "the path of a folder"),
    "seed": (_is(Integral), "an integer"),
    "selection": (_selects, "a policy or the name of one"),
    "gateway": (_none_or(_is_gateway), "a server's bundle or the path of one"),
    "run_name": (_none_or(_is(str)), "a string"),
    "callbacks": (_are_callable, "a sequence of functions"),
    "initial_arrays": (_is(ArrayRecord), "an ArrayRecord"),
    "train_config": (_none_or(_is(ConfigRecord)), "a ConfigRecord"),
    "evaluate_config": (_none_or(_is(ConfigRecord)), "a ConfigRecord"),
    "evaluate_fn": (_none_or(callable), "a function"),
}


def require_kinds(**arguments: object) -> None:
    """Check arguments of a strategy and of its `start` for what kind of object they are.

    Raises
    ------
    ConfigInvalid
        If one is another; the sentence names it.
    """
    for name, value in arguments.items():
        fits, kind = _KINDS[name]
        if not fits(value):
            raise _invalid(f"{name} must be {kind}", value)


def require_options(strategy: AsyncStrategy) -> None:
    """Check the shares and numbers of nodes, the keys, and what ClientApps reply.

    Raises
    ------
    ConfigInvalid
        If one of them makes no sense; the sentence names it.
    """
    train, evaluate = strategy.fraction_train, strategy.fraction_evaluate
    # No comparison with NaN holds.
    if not (isinstance(train, Real) and 0.0 < train <= 1.0):
        raise _invalid("fraction_train must be above 0 and at most 1", train)
    if not (isinstance(evaluate, Real) and 0.0 <= evaluate <= 1.0):
        raise _invalid("fraction_evaluate must be from 0 to 1", evaluate)
    for name in _MINIMA:
        minimum = getattr(strategy, name)
        if not (isinstance(minimum, Integral) and minimum >= 0):
            raise _invalid(f"{name} must be an integer of at least 0", minimum)
    if strategy.replies not in get_args(Replies):
        raise _invalid('replies must be "weights" or "deltas"', strategy.replies)
    for name in _KEYS:
        if type(key := getattr(strategy, name)) is not str:
            raise _invalid(f"{name} must be a string", key)
    if (key := strategy.configrecord_key) == strategy.arrayrecord_key:
        raise _invalid("configrecord_key and arrayrecord_key must differ", key)


def require_lengths(num_rounds: int, timeout: float) -> None:
    """Check how many versions a run is to merge, and how long it may wait for one.

    Raises
    ------
    ConfigInvalid
        If one of them makes no sense; the sentence names it.
    """
    if not (isinstance(num_rounds, Integral) and num_rounds >= 0):
        raise _invalid("num_rounds must be an integer of at least 0", num_rounds)
    if not (isinstance(timeout, Real) and timeout > 0):
        raise _invalid("timeout must be a number of seconds above 0", timeout)


def require_recipe(recipe: Any) -> Recipe:
    """Return what is a recipe.

    Raises
    ------
    ConfigInvalid
        If it is none, or the class of one.
    """
    if isinstance(recipe, type) or not hasattr(recipe, "parts"):
        raise _invalid(
            'recipe must be a recipe, as recipe_from("fedbuff"), or a function of the number of '
            "tasks in flight that returns one",
            recipe,
        )
    found: Recipe = recipe
    return found


def _invalid(sentence: str, found: object) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, f"{sentence}, not {found!r}.")
