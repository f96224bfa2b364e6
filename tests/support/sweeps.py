"""A sweep small enough for a test."""

from __future__ import annotations

from typing import Any

from fl_sim.simulation.config import SimulationConfig, load_config


def small(**sections: dict[str, Any]) -> SimulationConfig:
    """Return a configuration of a few seconds, with sections changed."""
    content: dict[str, dict[str, Any]] = {
        "devices": {"clients": 6},
        "train": {"model": "logistic", "local_steps": 2},
        "run": {"virtual_time": 3.0, "seeds": 2, "target_accuracy": 0.3},
    }
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values}
    return load_config(None, content)
