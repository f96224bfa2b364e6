"""The launcher's configuration file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tee_sim.settings import load_settings

# Belongs to no user on common systems: nothing else runs as, or is owned by, the enclave's user.
DEFAULT_ENCLAVE_USER = 64923
_PATHS = ("state_dir", "socket", "platform_key", "platform_chain", "hop_key")


@dataclass(frozen=True)
class LauncherConfig:
    """Settings of a launcher; relative paths start from the file's folder.

    Parameters
    ----------
    state_dir : str
        Folder of the epoch counter and ``enclave.pid``.
    socket : str
        Path of the Unix socket to listen on, mode 0600.
    policy : dict
        `EnclavePolicy.to_members`.
    platform_key, platform_chain : str
        Files made by `certificates.create_root`.
    hop_key : str
        File with the key that signs the gateway's requests, 32 bytes.
    security_version : int
        Stated in evidence.
    debug : bool
        Leave enclave memory readable; evidence says so.
    user : int, optional
        User the enclave runs as when the launcher is root; None keeps the launcher's.
    skip_layers : tuple of str
        Layers of lockdown to leave out.
    parent_pid : int, optional
        End when this process ends.
    """

    state_dir: str
    socket: str
    policy: dict[str, Any]
    platform_key: str
    platform_chain: str
    hop_key: str
    security_version: int = 1
    debug: bool = False
    user: int | None = DEFAULT_ENCLAVE_USER
    skip_layers: tuple[str, ...] = ()
    parent_pid: int | None = None

    def enclave_user(self) -> int | None:
        """Return the user to change to, or None when only root could."""
        return self.user if os.geteuid() == 0 else None

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def load(cls, path: Path) -> LauncherConfig:
        """Read a configuration file; raises ConfigInvalid naming what is wrong."""
        return load_settings(cls, path, paths=_PATHS)
