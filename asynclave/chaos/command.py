"""The command ``asynclave chaos sim``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fl_protocol.codes import Code, ConfigInvalid

if TYPE_CHECKING:
    from asynclave.chaos.simulation import Summary

app = typer.Typer(help="Break everything on purpose, and count what is lost.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def sim(
    seeds: Annotated[int, typer.Option(min=1, help="Number of worlds.")] = 100,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Virtual minutes under faults in each.")
    ] = 60.0,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first world.")] = 0,
    mutant: Annotated[str | None, typer.Option(help="Plant this bug first.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    output: Annotated[Path, typer.Option(help="File that failing seeds are added to.")] = Path(
        "chaos-failures.jsonl"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the server's code in simulated worlds that fail; exit code 1 when an invariant broke."""
    # Imported here so that --help does not wait for Flower.
    from asynclave.chaos.simulation import Summary, simulate
    from fl_sim.faults.mutants import MUTANTS

    if mutant is not None and mutant not in MUTANTS:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"There is no mutant {mutant}; there are {', '.join(MUTANTS)}."
        )
    console, summary = Console(stderr=as_json, highlight=False), Summary()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("worlds", total=seeds)
        for summary in simulate(
            seeds, minutes, first_seed=first_seed, mutant=mutant, workers=workers
        ):
            progress.update(task, completed=summary.seeds)
    if as_json:
        print(json.dumps(summary.members()))
    _show(summary, minutes, mutant, console)
    _keep(summary, output)
    raise typer.Exit(1 if summary.broken else 0)


def _show(summary: Summary, minutes: float, mutant: str | None, console: Console) -> None:
    table = Table(box=None, show_header=False)
    speed = 3600 * summary.hours / summary.seconds
    for name, value in (
        ("worlds", f"{summary.seeds}"),
        ("virtual time", f"{summary.hours:,.1f} h, {speed:,.0f} times real time"),
        ("updates made", f"{summary.updates:,}"),
        ("acknowledged", f"{summary.acknowledged:,}"),
        ("versions merged", f"{summary.versions:,}"),
        ("done again, same digest", f"{summary.replayed:,}"),
        ("server killed", f"{summary.crashes:,} times"),
        ("other faults", _faults(summary)),
        ("invariants broken", f"{len(summary.broken)}"),
    ):
        table.add_row(name, value)
    console.print(table)
    for report in summary.broken[:5]:
        console.print(f"[bold red]seed {report.seed}[/]: ", end="")
        console.print(report.violation, markup=False)
        console.print(f"replay it with: {_replay(report.seed, minutes, mutant)}", markup=False)


def _faults(summary: Summary) -> str:
    counts = sorted(summary.faults.items())
    return ", ".join(f"{name} {count:,}" for name, count in counts if name != "crash")


def _replay(seed: int, minutes: float, mutant: str | None) -> str:
    planted = f" --mutant {mutant}" if mutant else ""
    return f"asynclave chaos sim --seeds 1 --first-seed {seed} --minutes {minutes:g}{planted}"


def _keep(summary: Summary, output: Path) -> None:
    if not summary.broken:
        return
    with output.open("a", encoding="utf-8") as file:
        for report in summary.broken:
            file.write(json.dumps(vars(report)) + "\n")
