"""From nothing to an attested enclave: ``python -m benchmarks.spawning``, one JSON object.

An enclave is spawned from its sealed image, locks itself down, and is attested: evidence made and
appraised. Beside it, in turns, stands a bare interpreter that imports what the enclave imports from
others. ``unlocked`` is the same enclave with every layer of lockdown left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.enclave import KEY
from benchmarks.timing import medians
from benchmarks.updates import FEDERATION, Federation
from fl_protocol.ports import LocalDisk, SystemClock, SystemRng
from tee_sim import image
from tee_sim.appraisal import TrustPolicy
from tee_sim.certificates import kept_root
from tee_sim.launch import BootOptions, EnclaveProcess
from tee_sim.lockdown import LAYERS
from tee_sim.platform import SimulatedPlatform
from tee_sim.policy import Guardrails
from tee_sim.sealed_state import SealedState
from tee_sim.settings import load_signing_key

_IMPORTS = "import numpy, cryptography.hazmat.primitives.hpke"
_CLOCK, _RNG = SystemClock(), SystemRng()


def measure(rounds: int = 15) -> dict[str, float]:
    """Return milliseconds, medians of so many rounds after one that warms up."""
    with TemporaryDirectory() as folder:
        spawning = _Spawning(Path(folder))
        seconds = medians(
            {
                "spawn_lockdown_attest": lambda: spawning.attested(()),
                "unlocked": lambda: spawning.attested(LAYERS),
                "bare_imports": spawning.bare,
            },
            rounds,
        )
    figures = {f"{name}_ms": 1e3 * value for name, value in seconds.items()}
    figures["over_bare_imports"] = seconds["spawn_lockdown_attest"] / seconds["bare_imports"]
    return {name: round(value, 2) for name, value in figures.items()}


class _Spawning:
    def __init__(self, folder: Path) -> None:
        self._policy = Federation(1).policy
        self._handle = image.build().seal()
        self._measurement = image.measurement_of(self._handle)
        self._dependencies = image.dependency_paths()
        self._state = SealedState(folder / "sealed", LocalDisk(), _RNG)
        root = kept_root(folder)
        chain = (root.platform_chain.read_text(),)
        self._platform = SimulatedPlatform(load_signing_key(root.platform_key), chain, 1, _CLOCK)
        self._trust = TrustPolicy(
            roots_of_trust=("simulated",),
            simulated_root_pem=root.root.read_text(),
            measurements=(self._measurement,),
            min_security_version=1,
            guardrails=Guardrails(),
            federation=FEDERATION,
        )

    def attested(self, skip: tuple[str, ...]) -> None:
        """Spawn an enclave, have it appraised, and end it, which is timed as well."""
        process = EnclaveProcess.start(
            self._handle,
            self._measurement,
            self._dependencies,
            1,
            self._policy,
            BootOptions(None, KEY, skip),
            self._state,
        )
        nonce = _RNG.bytes(32)
        self._trust.appraise(self._platform.attest(process.facts, nonce), nonce, 0, _CLOCK)
        process.end()

    def bare(self) -> None:
        """Start an interpreter as an enclave is started."""
        script = f"import sys; sys.path.extend(sys.argv[1:]); {_IMPORTS}"
        command = [sys.executable, "-I", "-S", "-B", "-c", script, *self._dependencies]
        subprocess.run(command, check=True, env={"OPENBLAS_NUM_THREADS": "1"})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    print(json.dumps(measure(parser.parse_args().rounds), indent=2))


if __name__ == "__main__":
    main()
