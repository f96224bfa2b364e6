"""What the gateway's journal costs an upload: ``python -m benchmarks.journal``, one JSON object.

Two stacks stand side by side, one with a journal and one without, and two clients upload to one and
then to the other, version by version, so that both see the same load of the machine. An upload is
everything a node does, its own copy on disk included. They go one at a time: each waits for a sync
that it shares with nobody.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.load import Load
from fl_server.stack import LocalStack, StackSettings
from strategies.recipes.fedbuff import FedBuff

_SIZES = {"0.2 MB": 50_890, "4 MB": 1_000_000}
_CLIENTS = 2


def measure(num_params: int, versions: int) -> dict[str, float]:
    """Return the figures of one size; the first version only warms up."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as exits:
        loads = []
        for journal in (True, False):
            settings = StackSettings(FedBuff(buffer_size=_CLIENTS), k=_CLIENTS, journal=journal)
            stack = exits.enter_context(LocalStack(Path(folder, str(journal)), settings))
            loads.append(Load(stack, _CLIENTS, num_params))
        for version in range(versions + 1):
            for load in loads if version % 2 else reversed(loads):
                load.version(1)
        return _figures(*(1e3 * np.array(load.seconds[_CLIENTS:]) for load in loads))


def _figures(with_it: np.ndarray, without: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(with_it - without, (0.25, 0.5, 0.75))
    figures = {
        "pairs": with_it.size,
        "with_ms": np.median(with_it),
        "without_ms": np.median(without),
        "ratio": np.median(with_it) / np.median(without),
        "difference_ms": middle,
        "difference_lower_quartile_ms": low,
        "difference_upper_quartile_ms": high,
    }
    return {name: round(float(value), 2) for name, value in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=150)
    versions = parser.parse_args().versions
    print(json.dumps({name: measure(size, versions) for name, size in _SIZES.items()}, indent=2))


if __name__ == "__main__":
    main()
