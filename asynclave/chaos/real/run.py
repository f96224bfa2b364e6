"""A chaos run from its start to its verdict."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asynclave.chaos.real.faults import Struck, Tormentor
from asynclave.chaos.real.federation import Federation
from asynclave.chaos.real.history import Verdict, judge
from asynclave.chaos.real.settings import ProcessConfig
from fl_protocol.codes import Code, GatewayUnavailable

_START_SECONDS, _RECOVERY_SECONDS = 60.0, 90.0
_POLL_SECONDS = 0.02
_QUIET_SECONDS = (0.2, 1.5)


@dataclass
class Outcome:
    """What came out.

    Attributes
    ----------
    seconds : float
        Under faults.
    faults : Counter of str
        Inflicted, by kind.
    left_out : dict of str to str
        Kinds of faults that this machine does not allow, and why.
    recoveries : list of float
        Seconds from each fault to the next acknowledgement.
    rate : float
        Acknowledgements per second, faults included.
    verdict : Verdict
        Of the history.
    """

    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    recoveries: list[float] = field(default_factory=list)
    rate: float = 0.0
    verdict: Verdict | None = None

    def recovery(self, share: float) -> float:
        """Return a quantile of the recoveries in seconds, 0 if there was none."""
        return float(np.quantile(self.recoveries, share)) if self.recoveries else 0.0


def torment(
    folder: Path,
    seconds: float,
    *,
    num_clients: int,
    num_params: int,
    seed: int,
    progress: Callable[[str, float], None],
) -> Outcome:
    """Run a federation under faults, then hold its history against its records.

    Parameters
    ----------
    folder : Path
        Receives everything; must be empty or missing.
    seconds : float
        Under faults.
    num_clients, num_params : int
        Client processes, and size of the model.
    seed : int
        Of the choice of faults. Real processes do not repeat themselves otherwise.
    progress : callable
        Told what is done, and the share that is over.

    Raises
    ------
    GatewayUnavailable
        No client got anything acknowledged in the beginning, or within 90 s after a fault.
    DeploymentError
        ``CHILD_DIED``: a process ended that nobody had killed.
    """
    outcome, rng = Outcome(), random.Random(seed)
    with Federation(folder, num_clients, num_params, seed) as federation:
        outcome.left_out = federation.equipment.left_out
        _await_acknowledgement(federation, Struck("start", 0.0), _START_SECONDS)
        tormentor, began = Tormentor(federation, rng), time.monotonic()
        while outcome.seconds < seconds:
            struck = tormentor.strike()
            outcome.faults[struck.kind] += 1
            outcome.recoveries.append(_await_acknowledgement(federation, struck, _RECOVERY_SECONDS))
            time.sleep(rng.uniform(*_QUIET_SECONDS))
            outcome.seconds = time.monotonic() - began
            progress(struck.kind, outcome.seconds / seconds)
        federation.check()
        for number in range(num_clients):
            federation.kill_client(number)
        federation.kill_server()
        outcome.rate = sum(1 for _ in federation.acknowledgements()) / outcome.seconds
        config = ProcessConfig("", "", "", num_params)
        outcome.verdict = judge(federation, config, np.zeros(num_params, np.float32))
    return outcome


def _await_acknowledgement(federation: Federation, struck: Struck, patience: float) -> float:
    """Wait for the first acknowledgement after a fault; returns the seconds between them."""
    give_up = time.monotonic() + patience
    while time.monotonic() < give_up:
        federation.check()
        later = [
            entry.time
            for entry in federation.acknowledgements()
            if entry.time > struck.at and struck.client in (None, entry.client)
        ]
        if later:
            return min(later) - struck.at
        time.sleep(_POLL_SECONDS)
    raise GatewayUnavailable(
        Code.GATEWAY_UNAVAILABLE,
        f"Nothing was acknowledged within {patience:g} s after: {struck.kind}. The logs are in "
        f"{federation.folder}.",
    )
