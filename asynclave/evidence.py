"""``asynclave evidence explain``: what evidence states and why it would be accepted or refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from rich.console import Console
from rich.markup import escape

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.files import UnfitFile, read_regular
from fl_protocol.ports import SystemClock
from tee_sim.appraisal import TrustPolicy
from tee_sim.certificates import read_certificates
from tee_sim.evidence import LAST_SECOND
from tee_sim.explanation import Explanation, Outcome, explain
from tee_sim.trust_file import load_trust

app = typer.Typer(help="Look at attestation evidence.", no_args_is_help=True)

_MAX_FILE_BYTES = 64 << 10
_STYLES = {Outcome.OK: "green", Outcome.REFUSED: "bold red", Outcome.NOT_CHECKED: "yellow"}


@app.callback()
def _evidence() -> None:
    pass


@app.command("explain")
def explain_command(
    file: Annotated[Path, typer.Argument(help="Intel quote, SEV-SNP report or evidence as JSON.")],
    policy: Annotated[Path | None, typer.Option(help="TOML file with what is trusted.")] = None,
    certificates: Annotated[
        list[Path] | None,
        typer.Option(help="Certificates of a SEV-SNP report, PEM or DER, leaf first; repeatable."),
    ] = None,
    collateral: Annotated[
        Path | None, typer.Option(help="Intel's collateral, JSON; needs the extra dcap.")
    ] = None,
    at: Annotated[
        int | None, typer.Option(min=0, max=LAST_SECOND, help="Unix seconds to judge at; now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Explain evidence: exit code 0 when accepted, 1 when refused, 2 when unreadable."""
    trust = load_trust(policy) if policy else TrustPolicy()
    with warnings.catch_warnings():
        # AMD issued certificates with serial number 0, which the library frowns upon.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        chain = _read_certificates(certificates or [])
        now = SystemClock().now() if at is None else at
        explanation = explain(_read(file), trust, now, chain, _read_text(collateral))
    if as_json:
        print(json.dumps(_members(explanation)))
    else:
        _show(explanation)
    raise typer.Exit(0 if explanation.accepted else 1)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, _MAX_FILE_BYTES)
    except UnfitFile as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path} {error}") from None
    except OSError as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path}: {error.strerror}") from None


def _read_text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        text = _read(path).decode()
    except UnicodeDecodeError as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path}: {error.reason}") from None
    if not text.strip():
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path} is empty")
    return text


def _read_certificates(paths: list[Path]) -> tuple[str, ...]:
    found: list[x509.Certificate] = []
    for path in paths:
        data = _read(path)
        try:
            found.extend(read_certificates(data))
        except ValueError as error:
            raise ConfigInvalid(Code.CONFIG_INVALID, f"{path}: {error}") from None
    return tuple(certificate.public_bytes(Encoding.PEM).decode() for certificate in found)


def _members(explanation: Explanation) -> dict[str, Any]:
    stated = explanation.stated
    return {
        "platform": stated.platform,
        "measurement": stated.measurement,
        "registers": dict(explanation.registers),
        "code_signers": list(stated.code_signers),
        "signer_id": stated.signer_id,
        "debug": stated.debug,
        "security_version": stated.security_version,
        "tcb": dict(stated.tcb),
        "tcb_status": stated.tcb_status,
        "report_data": stated.report_data,
        "checks": [
            {
                "name": finding.name,
                "outcome": str(finding.outcome),
                "code": finding.code,
                "detail": finding.detail,
            }
            for finding in explanation.findings
        ],
        "accepted": explanation.accepted,
        "code": explanation.code,
    }


def _show(explanation: Explanation) -> None:
    console = Console(highlight=False, soft_wrap=True)
    members = _members(explanation)
    rows = {
        "platform": members["platform"],
        "measurement": members["measurement"],
        **{f"  {name}": value for name, value in members["registers"].items()},
        "signed by": ", ".join(members["code_signers"]) or "nobody",
        "platform's key": members["signer_id"] or "unknown",
        "debug": "on: its memory can be read" if members["debug"] else "off",
        "security version": members["security_version"],
        "TCB": _tcb(members["tcb"]) or "not stated",
        "TCB status": members["tcb_status"] or "not judged",
        "report data": members["report_data"],
    }
    for name, value in rows.items():
        console.print(_plain(f"{name:<20} {value}", console.encoding), markup=False)
    console.print()
    for finding in explanation.findings:
        style = _STYLES[finding.outcome]
        detail = escape(_plain(f"{finding.code} {finding.detail}".strip(), console.encoding))
        console.print(f"[{style}]{finding.outcome:<11}[/]  {finding.name:<18} {detail}".rstrip())
    console.print()
    if explanation.accepted:
        console.print("[bold green]accepted[/] by everything that could be checked")
    else:
        console.print(f"[bold red]refused[/]: {explanation.code}")


def _plain(text: str, encoding: str) -> str:
    """Escape what would steer a terminal or has no place in an encoding: nobody vouches for it."""
    printable = "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text
    )
    return printable.encode(encoding, "backslashreplace").decode(encoding)


def _tcb(versions: Mapping[str, int]) -> str:
    # The sixteen numbered components of a processor read best as one row.
    rows: dict[str, list[str]] = {}
    for part, version in versions.items():
        rows.setdefault(part.rstrip("0123456789").rstrip("_"), []).append(str(version))
    return ", ".join(f"{part} {'.'.join(row)}" for part, row in rows.items())
