"""One-machine simulation: virtual clock, device models, federated data, Flower Grid, fast path.

>>> from fl_sim import SimulationConfig, simulate
>>> result = simulate(SimulationConfig())  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_sim.simulation.config import SimulationConfig
    from fl_sim.simulation.sweep import simulate

__all__ = ["SimulationConfig", "simulate"]

_HOMES = {
    "SimulationConfig": "fl_sim.simulation.config",
    "simulate": "fl_sim.simulation.sweep",
}


def __getattr__(name: str) -> Any:
    # Lazy: a grid on virtual time needs none of it.
    if name not in _HOMES:
        raise AttributeError(f"module 'fl_sim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
