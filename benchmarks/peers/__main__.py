"""``python -m benchmarks.peers``: our simulator and its peers, in turn, on the same jobs.

Prints a table and, as the last line, one JSON object. A simulator that is not installed or fails
is named in both, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.contenders import (
    AS_SHIPPED,
    OURS,
    OURS_ON_ALL_CORES,
    PEERS,
    Contender,
    DriverFailed,
)
from benchmarks.peers.jobs import JOBS
from benchmarks.peers.processes import adopt_orphans
from benchmarks.peers.report import summary, table


def main() -> int:
    """Measure and print."""
    options = _arguments().parse_args()
    adopt_orphans()
    peers = [*PEERS, AS_SHIPPED] if options.as_shipped else list(PEERS)
    if options.only is not None:
        peers = [peer for peer in peers if peer.name in options.only]
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
        "load_before": os.getloadavg()[0],
        "rounds": options.rounds,
        "jobs": measure([OURS, OURS_ON_ALL_CORES, *peers], options.jobs, options.rounds),
    }
    print(*table(results), sep="\n")
    print(json.dumps(results))
    return any(
        "problem" in figures
        for job in results["jobs"].values()
        for figures in job["simulators"].values()
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    names = [peer.name for peer in (*PEERS, AS_SHIPPED)]
    parser.add_argument("--only", nargs="*", choices=names, help="peers beside our own")
    parser.add_argument("--as-shipped", action="store_true", help="APPFL with its gc calls, too")
    return parser


def measure(
    contenders: Sequence[Contender], jobs: Sequence[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """Run every job on every simulator once per round; a peer that fails is named, not left out."""
    figures: dict[str, Any] = {job: defaultdict(list) for job in jobs}
    problems: dict[str, dict[str, Any]] = {job: {} for job in jobs}
    for number in range(rounds):
        for job in jobs:
            for contender in contenders:
                if contender.name in problems[job]:
                    continue
                print(f"round {number + 1}: {job} on {contender.name}", file=sys.stderr)
                try:
                    measured = contender.run(job)
                except DriverFailed as error:
                    if contender in (OURS, OURS_ON_ALL_CORES):
                        raise
                    problems[job][contender.name] = {"problem": str(error)}
                else:
                    figures[job][contender.name].append(measured)
    return {
        job: {
            "parameters": JOBS[job].parameters,
            "simulators": summary(figures[job], OURS.name, OURS_ON_ALL_CORES.name) | problems[job],
        }
        for job in jobs
    }


if __name__ == "__main__":
    sys.exit(main())
