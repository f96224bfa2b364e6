"""CPU time per update and peak memory of the simulator, from 100 to 100,000 clients.

``python -m experiments.scaling`` measures what is missing of ``experiments/scaling.toml``, each
run in a process of its own, then writes ``docs/experiments/scaling.md`` and ``.png``. An
interrupted run goes on where it was; delete its results to measure afresh.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks.simulator import logistic_run
from experiments.common import HERE, publish, subplots
from fl_sim.simulation.parallel import in_processes

_INTRODUCTION = """\
# Scaling of the simulator

`python -m experiments.scaling`: whole runs of FedBuff over the logistic job of
`python -m benchmarks.simulator` (7,850 parameters, 5 steps of 16 examples per update, 5 % of the
tasks break off, random features), {updates} updates each, one process and one thread per run
(`experiments/scaling.toml`). Medians of {repeats} interleaved runs, and of the ratios of runs that
followed each other. CPU time goes from the set-up of fleet, trainer and server to the last update,
without building the data; peak memory is that of the whole process, including Python, numpy, torch
and the data (80 rows of a shared table per client: 8 bytes each). The machine was not idle: look at
the ratios, not at the times.

Clients that work the same number of tasks at a time are not the same work: of more clients, more of
those at work are slow ones, fewer tasks are ready to be trained in one call, and more evaluations
fall on an update, because it takes more virtual time. So compare rows that train as many together.

![CPU time per update and peak memory by number of clients](scaling.png)

| at work | clients | trained together | CPU ms per update | times {least:,} clients | peak MiB | \
more than {least:,} |
|---|---|---|---|---|---|---|
"""


class Point(NamedTuple):
    """Medians of the runs with these numbers of clients.

    Attributes
    ----------
    trained_together : float
        Tasks in one call of the trainer, on average.
    cpu_ms : float
        Per update.
    times_least : float
        The same over that of the run with the fewest clients shortly before.
    peak_mib : float
        Of the process.
    """

    trained_together: float
    cpu_ms: float
    times_least: float
    peak_mib: float


Series = Mapping[str, Mapping[int, Point]]
"""By number at work as configured, then by number of clients."""


def main() -> None:
    """Measure, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "scaling.toml")
    parser.add_argument("--results", type=Path, default=Path("runs/scaling.jsonl"))
    arguments = parser.parse_args()
    config = tomllib.loads(arguments.config.read_text(encoding="utf-8"))
    series = series_of(config, measured(config, arguments.results))
    least = min(config["clients"])
    text = _INTRODUCTION.format(updates=config["updates"], repeats=config["repeats"], least=least)
    publish("scaling", text + "\n".join(table_of(series)), _drawn(series))


def at_work(share: str, clients: int) -> int:
    """Return how many clients are at work: a number, or a share of the clients in per cent."""
    if share.endswith("%"):
        return max(1, round(clients * float(share.removesuffix("%")) / 100))
    return int(share)


def measured(config: Mapping[str, Any], results: Path) -> list[dict[str, Any]]:
    """Return all runs of a configuration, each point as often as it asks; make what is missing."""
    rows = _read(results)
    results.parent.mkdir(parents=True, exist_ok=True)
    for repeat in range(config["repeats"]):
        for share in config["in_flight"]:
            for clients in config["clients"]:
                point = (clients, at_work(share, clients), config["updates"])
                if sum(_point(row) == point for row in rows) > repeat:
                    continue
                row = next(iter(in_processes(logistic_run, [point], 1, print)))
                rows.append(row)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)
    return rows


def series_of(config: Mapping[str, Any], rows: list[dict[str, Any]]) -> Series:
    """Return the medians by number at work and number of clients."""
    least = min(config["clients"])

    def runs(share: str, clients: int) -> list[dict[str, Any]]:
        point = (clients, at_work(share, clients), config["updates"])
        return [row for row in rows if _point(row) == point]

    return {
        share: {
            clients: _median(runs(share, clients), runs(share, least))
            for clients in config["clients"]
        }
        for share in config["in_flight"]
    }


def table_of(series: Series) -> Iterator[str]:
    """Yield a row per point, beside the fewest clients of its series."""
    for share, points in series.items():
        first = points[min(points)]
        for clients, point in points.items():
            more = point.peak_mib - first.peak_mib
            yield (
                f"| {share} | {clients:,} | {point.trained_together:.1f} | {point.cpu_ms:.3f} "
                f"| {point.times_least:.2f} | {point.peak_mib:.0f} | {more:.0f} |"
            )
    yield ""


def _read(results: Path) -> list[dict[str, Any]]:
    if not results.exists():
        return []
    lines = results.read_text(encoding="utf-8").splitlines()
    # A last line cut short by an interruption has no closing brace.
    return [json.loads(line) for line in lines if line.endswith("}")]


def _point(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return row["clients"], row["in_flight"], row["updates"]


def _median(rows: list[dict[str, Any]], least: list[dict[str, Any]]) -> Point:
    def median(name: str) -> float:
        return statistics.median(row[name] for row in rows)

    times = [
        row["cpu_ms_per_update"] / before["cpu_ms_per_update"]
        for row, before in zip(rows, least, strict=True)
    ]
    return Point(
        median("trained_together"),
        median("cpu_ms_per_update"),
        statistics.median(times),
        median("peak_mib"),
    )


def _drawn(series: Series) -> Figure:
    figure, grid = subplots(1, 2)
    time, memory = grid[0]
    for share, points in series.items():
        label = f"{share} at work"
        time.plot(list(points), [p.cpu_ms for p in points.values()], marker="o", label=label)
        memory.plot(list(points), [p.peak_mib for p in points.values()], marker="o", label=label)
    time.set(ylabel="CPU ms per update", ylim=(0, None))
    memory.set(ylabel="peak memory of the process, MiB", ylim=(0, None))
    for axes in (time, memory):
        axes.set(xlabel="clients", xscale="log")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.suptitle("logistic regression, one thread")
    return figure


if __name__ == "__main__":
    main()
