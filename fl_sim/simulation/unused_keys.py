"""Keys that would have no effect beside others are refused, unless they hold their default.

So a file that lists every key, or a configuration that was written out, stays valid. Those of an
alternative (`alpha` of a partition, `sigma` of laws of speed, `hidden` of some models) may stay
when another is chosen: sweeps over alternatives share one file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_sim.simulation.config import DevicesSection


def is_default(devices: DevicesSection, key: str) -> bool:
    """Whether a key has its default value."""
    return bool(getattr(devices, key) == type(devices).model_fields[key].default)


def check_devices(devices: DevicesSection) -> None:
    """Raise ValueError if a key of ``[devices]`` has no effect, whatever a trace holds."""
    if devices.trace is not None:
        _refuse(devices, "task_seconds", "is said by the trace already")
    if devices.bandwidth_mbps is None:
        _refuse(devices, "bandwidth_sigma", "is for bandwidth_mbps")
    if devices.duty_cycle is None and (devices.trace is None or devices.windows is not None):
        _refuse(devices, "period", "is for a duty cycle")


def _refuse(devices: DevicesSection, key: str, reason: str) -> None:
    if not is_default(devices, key):
        raise ValueError(f"{key} {reason}; leave it out")
