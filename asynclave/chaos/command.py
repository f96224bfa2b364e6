"""The commands ``asynclave chaos sim`` and ``asynclave chaos real``."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fl_protocol.codes import Code, ConfigInvalid

if TYPE_CHECKING:
    from asynclave.chaos.real.history import Verdict
    from asynclave.chaos.real.run import Outcome
    from asynclave.chaos.simulation import Summary

_QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter("a finite number is needed")
    return value


app = typer.Typer(help="Break everything on purpose, and count what is lost.", no_args_is_help=True)


@app.command()
def sim(
    seeds: Annotated[int, typer.Option(min=1, help="Number of worlds.")] = 100,
    minutes: Annotated[
        float,
        typer.Option(min=0.1, callback=_finite, help="Virtual minutes under faults in each."),
    ] = 60.0,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first world.")] = 0,
    mutant: Annotated[str | None, typer.Option(help="Plant this bug first.")] = None,
    confidential: Annotated[
        bool, typer.Option(help="Simulate gateway, enclave and nodes instead of plain mode.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    output: Annotated[Path, typer.Option(help="File that failing seeds are added to.")] = Path(
        "chaos-failures.jsonl"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the server's code in simulated worlds that fail; exit code 1 when an invariant broke."""
    # Imported here so that --help does not wait for Flower.
    from asynclave.chaos.simulation import Summary, mutants, simulate

    known = mutants(confidential)
    if mutant is not None and mutant not in known:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"There is no mutant {mutant}; there are {', '.join(known)}."
        )
    console, summary = Console(stderr=as_json, highlight=False), Summary()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("worlds", total=seeds)
        for summary in simulate(
            seeds,
            minutes,
            first_seed=first_seed,
            mutant=mutant,
            workers=workers,
            confidential=confidential,
        ):
            progress.update(task, completed=summary.seeds)
    if as_json:
        print(json.dumps(summary.members()))
    options = f" --mutant {mutant}" * bool(mutant) + " --confidential" * confidential
    _show(summary, minutes, options, console)
    _keep(summary, output)
    raise typer.Exit(1 if summary.broken else 0)


@app.command()
def real(
    minutes: Annotated[
        float, typer.Option(min=0.1, callback=_finite, help="Minutes under faults.")
    ] = 2.0,
    clients: Annotated[int, typer.Option(min=4, help="Client processes.")] = 5,
    params: Annotated[int, typer.Option(min=1, help="Size of the model.")] = 50_000,
    seed: Annotated[int, typer.Option(help="Of the choice of faults.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Receives all state and logs; a temporary one if unset.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Kill, stop and cut off real processes; exit code 1 if anything is lost or counts twice."""
    from asynclave.chaos.real.run import torment

    console = Console(stderr=as_json, highlight=False)
    where = folder or Path(mkdtemp(prefix="asynclave-chaos-"))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        outcome = torment(
            where.resolve(),
            60 * minutes,
            num_clients=clients,
            num_params=params,
            seed=seed,
            progress=lambda what, share: progress.update(task, description=what, completed=share),
        )
    verdict = outcome.verdict
    assert verdict is not None
    broken = bool(verdict.lost or verdict.flaw)
    if folder is None and not broken:
        # What went wrong is to be found in it.
        rmtree(where)
    if as_json:
        quantiles = {name: outcome.recovery(q) for name, q in _QUANTILES.items()}
        print(
            json.dumps(
                {
                    "minutes": outcome.seconds / 60,
                    "faults": dict(sorted(outcome.faults.items())),
                    "left_out": outcome.left_out,
                    "recovery_seconds": quantiles,
                    "acknowledged_per_second": outcome.rate,
                    **vars(verdict),
                }
            )
        )
    _show_real(outcome, verdict, console)
    raise typer.Exit(1 if broken else 0)


def _show_real(outcome: Outcome, verdict: Verdict, console: Console) -> None:
    table = Table(box=None, show_header=False)
    quantiles = ", ".join(f"{n} {outcome.recovery(q):.2f} s" for n, q in _QUANTILES.items())
    for name, value in (
        ("under faults", f"{outcome.seconds / 60:.1f} min"),
        ("faults", ", ".join(f"{kind} {n}" for kind, n in sorted(outcome.faults.items()))),
        ("left out", _left_out(outcome)),
        ("to the next acknowledgement", quantiles),
        ("acknowledged", f"{verdict.acknowledged:,}, {outcome.rate:.1f} per second"),
        ("in a release", f"{verdict.released:,}, in {verdict.versions:,} versions"),
        ("waiting in the buffer", f"{verdict.waiting}"),
        ("lost", f"{len(verdict.lost)} {' '.join(verdict.lost[:3])}"),
        ("enclaves", f"{verdict.enclaves}"),
        ("verify-run", verdict.flaw or "no objection: nothing is in two releases"),
    ):
        table.add_row(name, value)
    console.print(table)


def _left_out(outcome: Outcome) -> str:
    if not outcome.left_out:
        return "nothing"
    return "; ".join(f"{kind} ({reason})" for kind, reason in sorted(outcome.left_out.items()))


def _show(summary: Summary, minutes: float, options: str, console: Console) -> None:
    table = Table(box=None, show_header=False)
    speed = 3600 * summary.hours / summary.seconds
    for name, value in (
        ("worlds", f"{summary.seeds}"),
        ("virtual time", f"{summary.hours:,.1f} h, {speed:,.0f} times real time"),
        ("updates made", f"{summary.updates:,}"),
        ("acknowledged", f"{summary.acknowledged:,}"),
        ("versions merged", f"{summary.versions:,}"),
        ("done again, same digest", f"{summary.replayed:,}"),
        ("processes killed", f"{summary.crashes:,} times"),
        ("other faults", _faults(summary)),
        ("invariants broken", f"{len(summary.broken)}"),
    ):
        table.add_row(name, value)
    console.print(table)
    for report in summary.broken[:5]:
        console.print(f"[bold red]seed {report.seed}[/]: ", end="")
        console.print(report.violation, markup=False)
        console.print(f"replay it with: {_replay(report.seed, minutes, options)}", markup=False)


def _faults(summary: Summary) -> str:
    counts = sorted(summary.faults.items())
    killed = ("crash", "enclave")
    return ", ".join(f"{name} {count:,}" for name, count in counts if name not in killed)


def _replay(seed: int, minutes: float, options: str) -> str:
    return f"asynclave chaos sim --seeds 1 --first-seed {seed} --minutes {minutes:g}{options}"


def _keep(summary: Summary, output: Path) -> None:
    if not summary.broken:
        return
    with output.open("a", encoding="utf-8") as file:
        for report in summary.broken:
            file.write(json.dumps(vars(report)) + "\n")
