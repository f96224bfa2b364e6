"""Memory of an enclave that takes large updates: ``python -m benchmarks.memory``, one JSON object.

Updates of two clients are handed to a real enclave process, which merges them two at a time.
``first_update_over_its_size`` is by how much the enclave's memory peaks above what it held before
the first update, over the update's size: below two, it is not held twice. ``peak_over_an_update``
is the peak of the whole, which also holds the model, two releases and a buffer of two.
``last_peak_over_fifth`` compares the peak after the last version with that after the fifth, from
when on it is flat if this is 1. Peaks are reset, which takes root.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from benchmarks.enclave import Outside, enclave
from benchmarks.processes import memory_mib, reset_peak
from benchmarks.updates import Federation

_MEGABYTE = 250_000
_MIB = 4 / (1 << 20)
_WARM = 5


def measure(megabytes: int = 400, versions: int = 8) -> dict[str, float]:
    """Return the ratios, and the memory they come from in MiB.

    Parameters
    ----------
    megabytes : int
        Size of an update, 250,000 float32 each.
    versions : int
        Merges of two updates each, above five.
    """
    num_params = megabytes * _MEGABYTE
    federation = Federation(num_params, buffer=2)
    with enclave(federation) as process, asyncio.Runner() as runner:
        side = Outside(federation, process, runner)
        reset_peak(process.pid)
        opened = memory_mib(process.pid, "VmRSS")
        peaks = []
        for _ in range(versions):
            for member in federation.members:
                side.hand_in(member)
                peaks.append(memory_mib(process.pid, "VmHWM"))
            side.publish()
        figures = {
            "first_update_over_its_size": (peaks[0] - opened) / (num_params * _MIB),
            "peak_over_an_update": peaks[-1] / (num_params * _MIB),
            "last_peak_over_fifth": peaks[-1] / peaks[2 * _WARM - 1],
            "update_mib": num_params * _MIB,
            "open_run_mib": opened,
            "first_update_mib": peaks[0],
            "fifth_version_mib": peaks[2 * _WARM - 1],
            "last_version_mib": peaks[-1],
        }
        return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--versions", type=int, default=8)
    options = parser.parse_args()
    print(json.dumps(measure(options.megabytes, options.versions), indent=2))


if __name__ == "__main__":
    main()
