"""The result of the main job, and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from asynclave.config import RunConfig
from asynclave.run.history import History, SpeedUp, speed_up
from asynclave.run.trust import CanaryVerdict


@dataclass
class Outcome:
    """Everything the job found out; filled as the job goes on.

    Attributes
    ----------
    status : str
        "running", "finished", "interrupted" or "failed".
    asynchronous : History
        The run itself.
    twin : History, optional
        The same run without the trust path, for its cost and its digest.
    synchronous : History, optional
        FedAvg on the same devices.
    canary : CanaryVerdict, optional
        Where the planted tensor was looked for.
    arrays : ArrayRecord, optional
        The final model.
    resumed : bool
        Whether the run was cut off and continued. Nodes and devices then begin anew, so its model
        is not that of a run in one piece.
    """

    run_id: str
    config: RunConfig
    plain: bool
    directory: Path
    asynchronous: History
    status: str = "running"
    twin: History | None = None
    synchronous: History | None = None
    canary: CanaryVerdict | None = None
    arrays: ArrayRecord | None = None
    resumed: bool = False

    @property
    def gain(self) -> SpeedUp | None:
        """How much sooner than FedAvg the target accuracy was reached."""
        if self.synchronous is None:
            return None
        return speed_up(self.asynchronous, self.synchronous, self.config.run.target_accuracy)

    @property
    def trust_cost(self) -> float | None:
        """Wall-clock seconds that the trust path added to each update."""
        if self.twin is None:
            return None
        return self.asynchronous.seconds_per_update() - self.twin.seconds_per_update()

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON values, None where the job did not get that far."""
        run, gain, canary = self.asynchronous, self.gain, self.canary
        return {
            "run": self.run_id,
            "status": self.status,
            "resumed": self.resumed,
            "directory": str(self.directory),
            "mode": "plain" if self.plain else "confidential",
            "strategy": self.config.strategy.name,
            "seed": self.config.run.seed,
            "digest": run.digest,
            "versions": run.evaluations[-1].version if run.evaluations else 0,
            "virtual_time": run.evaluations[-1].time if run.evaluations else 0.0,
            "accuracy": run.final_accuracy,
            "best_accuracy": run.best_accuracy,
            "updates": dict(sorted(run.codes.items())),
            "wall_seconds": run.wall_seconds,
            "seconds_per_update": run.seconds_per_update(),
            "trust_seconds_per_update": self.trust_cost,
            "same_digest_without_trust_path": self.twin and self.twin.digest == run.digest,
            "fedavg_best_accuracy": self.synchronous and self.synchronous.best_accuracy,
            "speed_up": gain
            and {
                "target_accuracy": gain.target,
                "asynchronous_time": gain.asynchronous,
                "synchronous_time": gain.synchronous,
                "ratio": gain.ratio,
            },
            "canary": canary
            and {
                "passed": canary.passed,
                "found_in": list(canary.found_in),
                "not_searched": list(canary.not_searched),
                "files": canary.num_files,
                "wire_bytes": canary.wire_bytes,
                "control": canary.control,
                "in_enclave": canary.in_enclave,
            },
        }
