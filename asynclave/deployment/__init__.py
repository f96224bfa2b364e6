"""A whole deployment on one machine: trusted stack, SuperLink and SuperNodes, up and down."""

from asynclave.deployment.control import Deployment, down, up
from asynclave.deployment.errors import DeploymentCode, DeploymentError

__all__ = ["Deployment", "DeploymentCode", "DeploymentError", "down", "up"]
