"""The simulated platform: ``python -m tee_sim.launcher CONFIG.json``.

It measures the enclave's image, starts one enclave per epoch from it, signs evidence about the
running one, and hands a socket of it to whoever attaches through the launcher's own Unix socket.
The enclave outlives its gateways: the next to attach gets the same one, with its keys, its buffer
and its chain, beside those that are attached. One that has ended, or has to be replaced, is
followed by a fresh one under a new epoch: buffered updates die with their key, and what is sealed
is handed to the successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import AsynclaveError, Code, ConfigInvalid, StorageFailed
from fl_protocol.core_dumps import leave_no_core
from fl_protocol.ports import Disk, LocalDisk, SystemClock, SystemRng
from fl_protocol.storage import clear_interrupted, stored
from tee_sim import image
from tee_sim.certificates import read_certificates
from tee_sim.control import ControlServer
from tee_sim.counter import FileCounter
from tee_sim.hop import HopVerifier
from tee_sim.launch import BootOptions, EnclaveProcess
from tee_sim.launcher_config import LauncherConfig
from tee_sim.lifetime import stop_event
from tee_sim.platform import SimulatedPlatform, TeePlatform
from tee_sim.policy import EnclavePolicy
from tee_sim.sealed_state import SealedState
from tee_sim.settings import load_key, load_signing_key

_SEALED = "sealed"

_logger = logging.getLogger(__name__)


class Launcher:
    """Keeps at most one enclave running.

    Parameters
    ----------
    platform : TeePlatform
        Signs evidence.
    policy : EnclavePolicy
        What every enclave enforces.
    options : BootOptions
        How enclaves are confined.
    epochs : FileCounter
        Source of epochs.
    state : SealedState
        Where enclaves keep what outlives them.
    pid_file : Path
        Receives the process id of the present enclave.
    """

    def __init__(
        self,
        platform: TeePlatform,
        policy: EnclavePolicy,
        options: BootOptions,
        epochs: FileCounter,
        state: SealedState,
        pid_file: Path,
    ) -> None:
        self._platform, self._policy, self._options = platform, policy, options
        self._epochs, self._state, self._pid_file = epochs, state, pid_file
        self._image = image.build().seal()
        # Measured after sealing: what is hashed is what will run.
        self.measurement = image.measurement_of(self._image)
        self._dependencies = image.dependency_paths()
        self._enclave: EnclaveProcess | None = None

    def attach(self, *, replace: int = 0) -> EnclaveProcess:
        """Return the running enclave, or start one: there is none, or it has that epoch."""
        enclave = self._running()
        if enclave.spent or enclave.facts.epoch == replace:
            return self._replace()
        return enclave

    def evidence(self, nonce: bytes) -> bytes:
        """Return evidence about the present enclave, starting one when there is none."""
        return self._platform.attest(self._running().facts, nonce)

    def end_enclave(self) -> None:
        """Kill the present enclave."""
        if self._enclave is not None:
            _logger.info("epoch %d: %s", self._enclave.facts.epoch, self._enclave.condition())
            self._enclave.end()
            self._enclave = None
            self._pid_file.unlink(missing_ok=True)

    def _running(self) -> EnclaveProcess:
        if self._enclave is None or not self._enclave.alive():
            return self._replace()
        return self._enclave

    def _replace(self) -> EnclaveProcess:
        self.end_enclave()
        self._enclave = EnclaveProcess.start(
            self._image,
            self.measurement,
            self._dependencies,
            self._epochs.next(),
            self._policy,
            self._options,
            self._state,
        )
        _logger.info("epoch %d: process %d", self._enclave.facts.epoch, self._enclave.pid)
        LocalDisk().write_atomic(self._pid_file, str(self._enclave.pid).encode())
        return self._enclave


async def serve(config: LauncherConfig) -> None:
    """Run a launcher until SIGTERM, SIGINT or the end of the process named in the configuration.

    Raises
    ------
    StorageFailed
        ``STATE_IN_USE``: another launcher has the folder for its state, or the socket.
    """
    stopping = stop_event(config.parent_pid)
    disk, state, socket = LocalDisk(), Path(config.state_dir), Path(config.socket)
    # Held to the end: a second one would take the first one's socket, epochs and sealed state.
    with (
        _alone(disk, state / "lock", f"the saved state in {state}"),
        _alone(disk, socket.with_name(f"{socket.name}.lock"), f"the socket {socket}"),
    ):
        clear_interrupted(disk, state / _SEALED)
        hop_key = load_key(Path(config.hop_key))
        launcher = _launcher(config, state, hop_key, disk)
        try:
            # Started before the socket exists, so that a socket means an enclave is ready.
            launcher.attach()
            async with ControlServer(socket, launcher, HopVerifier(hop_key, SystemClock())):
                await stopping.wait()
        finally:
            launcher.end_enclave()


@contextlib.contextmanager
def _alone(disk: Disk, lock: Path, what: str) -> Iterator[None]:
    with disk.lock(lock, wait=False) as alone:
        if not alone:
            raise StorageFailed(Code.STATE_IN_USE, f"Another launcher uses {what}.")
        yield


def _launcher(config: LauncherConfig, state: Path, hop_key: bytes, disk: Disk) -> Launcher:
    key = load_signing_key(Path(config.platform_key))
    return Launcher(
        SimulatedPlatform(
            key,
            (_certificate_of(key, Path(config.platform_chain), disk),),
            config.security_version,
            SystemClock(),
        ),
        EnclavePolicy.from_members(config.policy),
        BootOptions(config.enclave_user(), hop_key, config.skip_layers, config.debug),
        FileCounter(state / "epoch", disk),
        SealedState(state / _SEALED, disk, SystemRng()),
        state / "enclave.pid",
    )


def _certificate_of(key: Ed25519PrivateKey, path: Path, disk: Disk) -> str:
    """Read the certificate of the platform's key: nodes would refuse all evidence with another."""
    try:
        text = disk.read(path)
        if read_certificates(text)[0].public_key() != key.public_key():
            raise ValueError("it is another key's")
        return text.decode()
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{path} is no certificate of the platform's key: {error}"
        ) from None


def main(arguments: Sequence[str]) -> int:
    """Run the launcher; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if len(arguments) != 1:
        print("usage: python -m tee_sim.launcher CONFIG.json", file=sys.stderr)
        return 2
    leave_no_core()
    try:
        config = LauncherConfig.load(Path(arguments[0]))
        with stored(config.state_dir):
            asyncio.run(serve(config))
    except AsynclaveError as error:
        print(f"tee_sim.launcher: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
