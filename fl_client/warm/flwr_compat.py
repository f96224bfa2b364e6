"""Every Flower internal the warm executor uses, for one Flower version."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from fl_protocol.flower import require_supported

try:
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.constant import ExecutorType, TaskType
    from flwr.supercore.logger import log
    from flwr.supercore.superexec import run_superexec
    from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, get_executor
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supercore.tls import validate_and_resolve_root_certificates
    from flwr.supernode.runtime.run_clientapp import run_clientapp
except ImportError:
    # A version that moved its internals is, first of all, an unsupported version.
    require_supported()
    raise

__all__ = [
    "ExecutionSpec",
    "LaunchResult",
    "SubprocessExecutor",
    "TaskType",
    "log",
    "run_client_app",
    "run_superexec_with",
]

POLL_VARIABLE = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
"""Environment variable with the seconds between two questions for a task."""


def run_client_app(spec: ExecutionSpec) -> None:
    """Run one task as ``flwr-clientapp`` does; ends the process."""
    sys.argv = ["flwr-clientapp"]
    run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        certificates=validate_and_resolve_root_certificates(
            spec.root_certificates_path, spec.insecure
        ),
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )


def run_superexec_with(make_executor: Callable[[], Any], arguments: Sequence[str]) -> None:
    """Run ``flower-superexec`` with an executor of ours in the place of local subprocesses.

    Flower has no hook for it: the choice by ``--executor`` is a function, which is replaced.
    """

    def ours(executor_type: ExecutorType, **options: Any) -> Any:
        if executor_type == ExecutorType.SUBPROCESS:
            return make_executor()
        return get_executor(executor_type, **options)

    run_superexec.get_executor = ours  # type: ignore[attr-defined, assignment]
    sys.argv = ["flower-superexec", *arguments]
    flower_superexec()
