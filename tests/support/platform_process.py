"""A launcher as a real process, and what a relying party needs to check it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.ports import SystemClock, SystemRng
from tee_sim import image
from tee_sim.appraisal import Attested, TrustPolicy
from tee_sim.certificates import create_root
from tee_sim.hop import HopSigner
from tee_sim.launcher_config import LauncherConfig
from tests.support.enclave import HOP_KEY, policy_for
from tests.support.processes import wait_until

NONCE = b"n" * 32
SIGNER = HopSigner(HOP_KEY, SystemClock(), SystemRng())


class Platform:
    """A launcher process and what a relying party needs to check it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        files = create_root(folder)
        (folder / "hop.key").write_bytes(HOP_KEY)
        self.policy = policy_for(Ed25519PrivateKey.generate())
        self.socket = folder / "launcher.sock"
        self.config = LauncherConfig(
            state_dir=str(folder / "state"),
            socket=str(self.socket),
            policy=self.policy.to_members(),
            platform_key=str(files.platform_key),
            platform_chain=str(files.platform_chain),
            hop_key=str(folder / "hop.key"),
            **settings,  # type: ignore[arg-type]
        )
        self.trust = TrustPolicy(
            roots_of_trust=("simulated",),
            simulated_root_pem=files.root.read_text(),
            measurements=(image.measure(),),
        )
        self.path = folder / "launcher.json"
        self.config.save(self.path)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tee_sim.launcher", str(self.path)]
        process = subprocess.Popen(command)
        wait_until(lambda: self.socket.exists() or process.poll() is not None)
        assert process.poll() is None
        return process

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def refuses(self, code: str, named: str) -> None:
        """Start it, and see it end with a code and the name of what is wrong."""
        command = [sys.executable, "-m", "tee_sim.launcher", str(self.path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        *_, last = ended.stderr.splitlines()
        assert last.startswith(f"tee_sim.launcher: {code}: ") and named in last, ended.stderr

    @property
    def enclave_pid(self) -> int:
        return int(Path(self.config.state_dir, "enclave.pid").read_text())

    def appraise(self, evidence: bytes, last_epoch: int = 0) -> Attested:
        return self.trust.appraise(evidence, NONCE, last_epoch, SystemClock())


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(tmp_path)
    yield platform
    platform.stop()
