"""What a client needs to know to send sealed updates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid
from tee_sim.node_config import NodeConfig

NODE_CONFIG_KEY = "asynclave-config"
ENVIRONMENT_VARIABLE = "ASYNCLAVE_CLIENT_CONFIG"


class ClientConfig(NodeConfig):
    """A client's bundle; see `NodeConfig` for its members."""


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
