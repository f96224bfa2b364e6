"""Selection policies by name."""

from __future__ import annotations

import random
from typing import Any

from strategies.errors import UnknownPolicy
from strategies.options import build
from strategies.selection.history import TaskHistory
from strategies.selection.policies import Auction, LoadAware, Policy, Speed, Uniform
from strategies.selection.selector import Selector

POLICIES: dict[str, type[Any]] = {kind.name: kind for kind in (Uniform, Speed, LoadAware, Auction)}


def policy_from(name: str, /, **options: Any) -> Policy:
    """Build a policy.

    Parameters
    ----------
    name : str
        One of ``POLICIES``: "uniform", "speed", "load-aware", "auction".
    **options : float or str
        Options of the policy.

    Raises
    ------
    UnknownPolicy
        No policy has this name.
    BadOption
        An option is unknown, has the wrong type or is out of range.
    """
    if name not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise UnknownPolicy(f"Unknown selection policy {name!r}; choose one of {known}.")
    policy: Policy = build(name, POLICIES[name], options)
    return policy


def selector_for(policy: Policy, seed: int, history: TaskHistory | None = None) -> Selector | None:
    """Return what chooses by a policy; None for `Uniform`, which needs no history.

    A runtime draws uniformly by itself, in a time that does not depend on the number of clients.
    """
    if isinstance(policy, Uniform):
        return None
    return Selector(policy, random.Random(seed), history)
