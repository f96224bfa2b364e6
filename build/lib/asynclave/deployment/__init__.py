"""A whole deployment on one machine: trusted stack, SuperLink and SuperNodes, up and down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asynclave.deployment.control import Deployment, down, up
    from asynclave.deployment.errors import DeploymentCode, DeploymentError

__all__ = ["Deployment", "DeploymentCode", "DeploymentError", "down", "up"]

_HOMES = {
    "Deployment": "asynclave.deployment.control",
    "DeploymentCode": "asynclave.deployment.errors",
    "DeploymentError": "asynclave.deployment.errors",
    "down": "asynclave.deployment.control",
    "up": "asynclave.deployment.control",
}


def __getattr__(name: str) -> Any:
    # Lazy: the command line must show its help, and other commands, without loading Flower.
    if name not in _HOMES:
        raise AttributeError(f"module 'asynclave.deployment' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
