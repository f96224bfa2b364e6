"""The command ``asynclave doctor``."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from asynclave.doctor.finding import Finding

_STYLES = {"ok": "green", "weak": "yellow", "bad": "bold red"}


def doctor_command(
    state_dir: Annotated[
        Path, typer.Option(help="Deployment or identity folder whose files are looked at.")
    ] = Path(".asynclave"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Start an enclave, look at what protects it here, and say what to do about the rest.

    Exit code 1 when something is wrong; what is only weaker than it could be is no error.
    """
    # Imported here so that --help stays quick.
    from asynclave.doctor.enclave import enclave_findings
    from asynclave.doctor.finding import State
    from asynclave.doctor.host import host_findings

    findings = [*host_findings(state_dir), *enclave_findings()]
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    raise typer.Exit(any(finding.state is State.BAD for finding in findings))


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        state = f"[{_STYLES[finding.state]}]{finding.state:<5}[/]"
        line = escape(f"{finding.topic:<9} {finding.name:<24} {finding.found}")
        console.print(f"{state} {line}")
        if finding.advice:
            console.print(f"{'':<41}→ {finding.advice}", markup=False)
    counts = Counter(finding.state.value for finding in findings)
    console.print(f"\n{counts['ok']} ok, {counts['weak']} weak, {counts['bad']} bad")
