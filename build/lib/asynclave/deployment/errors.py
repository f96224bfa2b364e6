"""What can go wrong when a deployment is started or stopped."""

from __future__ import annotations

from enum import StrEnum

from fl_protocol.codes import AsynclaveError


class DeploymentCode(StrEnum):
    """Stable codes of deployment failures."""

    ALREADY_UP = "ALREADY_UP"
    STATE_DIR_IN_USE = "STATE_DIR_IN_USE"
    PORT_IN_USE = "PORT_IN_USE"
    CHILD_DIED = "CHILD_DIED"
    NOT_READY = "NOT_READY"
    NOT_STOPPED = "NOT_STOPPED"
    PROGRAM_MISSING = "PROGRAM_MISSING"


class DeploymentError(AsynclaveError):
    """A deployment could not be started or stopped."""
