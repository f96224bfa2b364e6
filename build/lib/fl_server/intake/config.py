"""What a server is told about one gateway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tee_sim.node_config import NodeConfig


@dataclass(frozen=True)
class ServerConfig(NodeConfig):
    """The server's bundle.

    Attributes
    ----------
    records_dir : str
        Folder that receives one folder per run with everything the enclave signed, for
        `asynclave verify-run`; none is written when empty. Other members: see `NodeConfig`.
    """

    records_dir: str = ""

    PATHS: ClassVar[tuple[str, ...]] = (*NodeConfig.PATHS, "records_dir")
