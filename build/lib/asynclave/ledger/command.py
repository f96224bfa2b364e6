"""The commands ``asynclave ledger verify``, ``show`` and ``export``."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asynclave.ledger.accounts import Accounts

app = typer.Typer(help="What became of every update of a saved run.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The folder in which a run is kept.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Format(StrEnum):
    """What `export` writes."""

    JSONL = "jsonl"
    CSV = "csv"


@app.command()
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Add a run up: versions, and how many updates were merged, refused or wait."""
    from asynclave.ledger.accounts import accounts_of
    from fl_server.durable.copy import continued

    with continued(folder) as run:
        _print(accounts_of(run), as_json)


@app.command()
def verify(folder: Folder, as_json: AsJson = False) -> None:
    """Check a run offline, and that it can be continued.

    The hash chain must be whole, no update may be named twice, versions have no gaps, and doing
    again what the journal holds must give the very models the ledger names.
    """
    from asynclave.ledger.accounts import accounts_of
    from fl_server.durable.copy import continued

    with continued(folder) as run:
        run.saved.ledger.check_integrity()
        accounts = accounts_of(run)
        _print(accounts, as_json, verified=not accounts.lost)
    raise typer.Exit(1 if accounts.lost else 0)


@app.command()
def export(
    folder: Folder,
    output: Annotated[Path | None, typer.Option(help="File; standard output if unset.")] = None,
    form: Annotated[Format, typer.Option("--format", help="One line per update.")] = Format.JSONL,
) -> None:
    """Write every update in the ledger with its client, weight, outcome and version."""
    from asynclave.ledger.accounts import lines_of
    from fl_server.durable.copy import continued

    with continued(folder) as run, _opened(output) as file:
        members = (line.members() for line in lines_of(run.saved.ledger.rows()))
        _write(members, file, form)


def _print(accounts: Accounts, as_json: bool, **more: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(accounts), "lost": accounts.lost, **more}))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, value in accounts.about.items():
        console.print(f"{name}: {value}", markup=False)
    console.print(f"version {accounts.version}, model {accounts.model_digest}")
    table = Table("updates", "", box=None)
    table.add_row("acknowledged", str(accounts.received))
    for outcome, count in accounts.outcomes.items():
        table.add_row(outcome, str(count))
    table.add_row("lost", str(accounts.lost))
    console.print(table)
    if accounts.torn_bytes:
        console.print(
            f"{accounts.torn_bytes} bytes at the end of the journal were never acknowledged; "
            "they are cut off when the run is continued"
        )
    if "verified" in more:
        said = "[bold green]verified[/]" if more["verified"] else "[bold red]updates are missing[/]"
        console.print(f"{said}: newest link {accounts.link}")


def _write(members: Iterable[dict[str, Any]], file: TextIO, form: Format) -> None:
    if form is Format.JSONL:
        for line in members:
            file.write(json.dumps(line) + "\n")
        return
    writer: csv.DictWriter[str] | None = None
    for line in members:
        if writer is None:
            writer = csv.DictWriter(file, line)
            writer.writeheader()
        writer.writerow(line)


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8", newline="") as file:
        yield file
