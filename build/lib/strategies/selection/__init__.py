"""Client selection: which idle clients get the next tasks.

It matters only while fewer tasks are in flight than clients could work. The parts, in the order
in which data flow: `history` (what is known of each client), `policies` (sampling weights made of
that, pure functions), `selector` (history, policy and randomness put together), `fairness` (what
came of it).
"""

from strategies.selection.catalog import POLICIES, policy_from, selector_for
from strategies.selection.fairness import jain_index
from strategies.selection.history import Estimates, TaskHistory
from strategies.selection.policies import (
    Auction,
    LoadAware,
    Policy,
    Speed,
    Uniform,
    bids,
    explore_first,
    highest,
)
from strategies.selection.selector import Selector

__all__ = [
    "POLICIES",
    "Auction",
    "Estimates",
    "LoadAware",
    "Policy",
    "Selector",
    "Speed",
    "TaskHistory",
    "Uniform",
    "bids",
    "explore_first",
    "highest",
    "jain_index",
    "policy_from",
    "selector_for",
]
