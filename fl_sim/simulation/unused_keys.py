"""Keys that would have no effect beside others are refused, unless they hold their default.

So a file that lists every key, or a configuration that was written out, stays valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from fl_sim.simulation.config import DataSection, DevicesSection


def is_default(section: BaseModel, key: str) -> bool:
    """Whether a key of a section has its default value."""
    return bool(getattr(section, key) == type(section).model_fields[key].default)


def check_data(data: DataSection) -> None:
    """Raise ValueError if a key of ``[data]`` has no effect."""
    if data.partition != "dirichlet":
        _refuse(data, "alpha", 'is for partition = "dirichlet"')


def check_devices(devices: DevicesSection) -> None:
    """Raise ValueError if a key of ``[devices]`` has no effect, whatever a trace holds."""
    if devices.trace is not None:
        for key in ("task_seconds", "sigma"):
            _refuse(devices, key, "is said by the trace already")
    if devices.bandwidth_mbps is None:
        _refuse(devices, "bandwidth_sigma", "is for bandwidth_mbps")
    if devices.duty_cycle is None and (devices.trace is None or devices.windows is not None):
        _refuse(devices, "period", "is for a duty cycle")


def _refuse(section: BaseModel, key: str, reason: str) -> None:
    if not is_default(section, key):
        raise ValueError(f"{key} {reason}; leave it out")
