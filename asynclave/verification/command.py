"""The command ``asynclave verify-run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from asynclave.verification.audit import Audit


def verify_run_command(
    directory: Annotated[Path, typer.Argument(help="Directory of a confidential run.")],
    policy: Annotated[
        Path | None,
        typer.Option(help="TOML file with what you trust; by default what the run trusted."),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Id of the run that the records must be of.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a run offline: exit code 0 when everything holds, 1 at the first flaw, 2 if unreadable.

    The chain of signed records must be whole, every release must hold updates that were accepted
    once each, from enough clients, under the attested policy, and the model must be a released one.
    """
    # Imported here so that --help stays quick.
    from asynclave.verification.audit import audit

    found = audit(directory, policy, run)
    if as_json:
        print(json.dumps(_members(found)))
    else:
        _show(found, policy)
    raise typer.Exit(0 if found.flaw is None else 1)


def _members(found: Audit) -> dict[str, Any]:
    return {
        "verified": found.flaw is None,
        "run": found.run_id,
        "records": found.num_records,
        "accepted": found.accepted,
        "refused": found.refused,
        "releases": found.releases,
        "version": found.version,
        "model_digest": found.model_digest,
        "enclaves": [
            {
                "epoch": epoch,
                "measurement": attested.measurement,
                "policy_digest": attested.policy_digest,
                "k": attested.policy.k,
            }
            for epoch, attested in sorted(found.enclaves.items())
        ],
        "notes": found.notes,
        "flaw": found.flaw and vars(found.flaw),
    }


def _show(found: Audit, policy: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    trusted = f"by {policy}" if policy else "by the run's own trust.toml; --policy judges by yours"
    for epoch, attested in sorted(found.enclaves.items()):
        measurement = attested.measurement[:16]
        console.print(f"epoch {epoch}: evidence accepted {trusted}; measurement {measurement}…")
    console.print(
        f"{found.num_records} records: {found.accepted} updates accepted, {found.refused} refused, "
        f"{found.releases} models released"
    )
    if found.run_id:
        console.print(f"run {found.run_id}", markup=False)
        console.print(f"version {found.version} has the digest {found.model_digest}")
    for note in found.notes:
        console.print(note, markup=False)
    if found.flaw is None:
        console.print("[bold green]verified[/]")
        return
    flaw = found.flaw
    console.print(f"[bold red]not verified[/]: record {flaw.index}, {flaw.kind}: ", end="")
    console.print(flaw.detail, markup=False)
