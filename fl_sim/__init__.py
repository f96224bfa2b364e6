"""One-machine simulation: virtual clock, device models, federated data, Flower Grid, fast path.

>>> from fl_sim import simulate
>>> result = simulate("simulation.toml", strategy="fedbuff", seeds=5)  # doctest: +SKIP

A model, loss, data and local optimiser of one's own:

>>> from fl_sim import SGD, ClientData, ClientTask, simulate_task
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl_client.optimiser import SGD
    from fl_sim.cohort.base import ClientData
    from fl_sim.cohort.losses import cross_entropy, share_right, squared_error
    from fl_sim.simulation.client_task import ClientTask
    from fl_sim.simulation.config import SimulationConfig, load_config
    from fl_sim.simulation.sweep import simulate, simulate_task

__all__ = [
    "SGD",
    "ClientData",
    "ClientTask",
    "SimulationConfig",
    "cross_entropy",
    "load_config",
    "share_right",
    "simulate",
    "simulate_task",
    "squared_error",
]

_HOMES = {
    "SGD": "fl_client.optimiser",
    "ClientData": "fl_sim.cohort.base",
    "ClientTask": "fl_sim.simulation.client_task",
    "SimulationConfig": "fl_sim.simulation.config",
    "cross_entropy": "fl_sim.cohort.losses",
    "load_config": "fl_sim.simulation.config",
    "share_right": "fl_sim.cohort.losses",
    "simulate": "fl_sim.simulation.sweep",
    "simulate_task": "fl_sim.simulation.sweep",
    "squared_error": "fl_sim.cohort.losses",
}


def __getattr__(name: str) -> Any:
    # Lazy: a grid on virtual time needs none of it.
    if name not in _HOMES:
        raise AttributeError(f"module 'fl_sim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
