"""What a client needs to know to send sealed updates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid
from tee_sim.node_config import NodeConfig

NODE_CONFIG_KEY = "asynclave-config"
ENVIRONMENT_VARIABLE = "ASYNCLAVE_CLIENT_CONFIG"


@dataclass(frozen=True)
class ClientConfig(NodeConfig):
    """A client's bundle; see `NodeConfig` for its other members.

    Attributes
    ----------
    repeat_after_restart : bool
        Whether an update that was sealed to an enclave which was replaced since is made again for
        its successor. Off, it counts as lost unless a receipt came: the old enclave may have
        released it, which the successor does not know, and a result in two releases can be solved
        for. Turn it on only where the gateway's operator is trusted and nodes are too few to do
        without one.
    """

    repeat_after_restart: bool = False


def find_config(node_config: Mapping[str, object]) -> Path:
    """Return the path of this node's bundle.

    Parameters
    ----------
    node_config : Mapping
        The SuperNode's ``--node-config``; its "asynclave-config" goes before the environment
        variable ASYNCLAVE_CLIENT_CONFIG.

    Raises
    ------
    ConfigInvalid
        Neither names a path.
    """
    path = node_config.get(NODE_CONFIG_KEY) or os.environ.get(ENVIRONMENT_VARIABLE)
    if not isinstance(path, str) or not path:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"this node has no gateway bundle: start its SuperNode with --node-config "
            f"'{NODE_CONFIG_KEY}=\"PATH\"' or set {ENVIRONMENT_VARIABLE}",
        )
    return Path(path)
