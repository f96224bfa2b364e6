"""The simulated TEE platform of a stack: its root, its launcher's settings, its enclave."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from fl_protocol.codes import Code, error_for
from tee_sim import image
from tee_sim.certificates import kept_root
from tee_sim.launcher_config import LauncherConfig
from tee_sim.policy import EnclavePolicy


class StackPlatform:
    """Files of the launcher; the launcher itself is started by the stack.

    Parameters
    ----------
    directory : Path
        State of the launcher; created when missing. Its root and its epoch counter go on from an
        earlier start.
    policy : EnclavePolicy
        What every enclave enforces.
    hop_key : Path
        File with the key shared with the gateway.
    """

    def __init__(self, directory: Path, policy: EnclavePolicy, hop_key: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.measurement = image.measure()
        self.policy = policy
        self.config_path = directory / "launcher.json"
        self._enclave_pid = directory / "enclave.pid"
        root = kept_root(directory)
        self.root_pem = root.root.read_text()
        # A socket's path may have 107 bytes at most, which a state directory easily exceeds.
        self._sockets = Path(tempfile.mkdtemp(prefix="asynclave-"))
        self.socket_path = self._sockets / "launcher"
        LauncherConfig(
            state_dir=str(directory),
            socket=str(self.socket_path),
            policy=policy.to_members(),
            platform_key=str(root.platform_key),
            platform_chain=str(root.platform_chain),
            hop_key=str(hop_key),
            parent_pid=os.getpid(),
        ).save(self.config_path)

    def ready(self) -> bool:
        """Tell whether the launcher listens, which it does once an enclave runs."""
        return self.socket_path.exists()

    def enclave_pid(self) -> int:
        """Return the present enclave's process id; raises GatewayUnavailable when there is none."""
        try:
            return int(self._enclave_pid.read_text())
        except (OSError, ValueError):
            raise error_for(Code.ENCLAVE_UNAVAILABLE) from None

    def close(self) -> None:
        """Remove the socket's folder."""
        shutil.rmtree(self._sockets, ignore_errors=True)
