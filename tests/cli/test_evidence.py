"""`asynclave evidence explain` on the recorded quotes: what it prints and how it exits."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from asynclave.cli import app
from asynclave.evidence import _show
from fl_protocol.codes import AsynclaveError, Code
from tee_sim.certificates import create_root
from tee_sim.explanation import Explanation, Finding, Outcome
from tee_sim.quotes.intel import IntelQuote
from tests.support.quotes import recorded

AT = ("--at", "1750500000")


def explain(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["evidence", "explain", *map(str, arguments)])
    if isinstance(result.exception, AsynclaveError):
        raise result.exception
    return result.exit_code, result.output


def saved(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(recorded(name))
    return path


def test_accepts_a_recorded_quote_under_a_policy_that_names_it(tmp_path: Path) -> None:
    quote = saved(tmp_path, "sgx_quote")
    policy = tmp_path / "trust.toml"
    measurement = "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"
    policy.write_text(
        f'roots_of_trust = ["intel-sgx"]\nmeasurements = ["{measurement}"]\n'
        "[minimum_tcb.intel-sgx]\npce_svn = 13\n"
    )
    code, output = explain(quote, "--policy", policy, *AT)
    assert code == 0
    assert measurement in output and "accepted" in output


def test_refuses_a_recorded_quote_without_a_policy(tmp_path: Path) -> None:
    code, output = explain(saved(tmp_path, "tdx_quote"), *AT)
    assert code == 1
    assert "roots_of_trust" in output


def test_refuses_the_debug_report_of_amd_as_json(tmp_path: Path) -> None:
    policy = tmp_path / "trust.toml"
    policy.write_text('roots_of_trust = ["amd-sev-snp"]\n')
    certificates = [
        argument
        for name in ("vcek.testcer", "milan.testcer")
        for argument in ("--certificates", saved(tmp_path, name))
    ]
    report = saved(tmp_path, "attestation.bin")
    code, output = explain(report, *certificates, "--policy", policy, *AT, "--json")
    answer = json.loads(output)
    assert code == 1
    assert answer["debug"] is True and answer["code"] == Code.EVIDENCE_DEBUG
    outcomes = {check["name"]: check["outcome"] for check in answer["checks"]}
    assert outcomes["signatures"] == outcomes["validity"] == "ok"


def test_judges_certificates_at_the_time_given(tmp_path: Path) -> None:
    code, output = explain(saved(tmp_path, "sgx_quote"), "--at", "2500000000", "--json")
    outcomes = {check["name"]: check["outcome"] for check in json.loads(output)["checks"]}
    assert (code, outcomes["validity"]) == (1, "refused")


def test_judges_the_platform_by_collateral(tmp_path: Path) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("dcap_qvl")
    collateral = saved(tmp_path, "tdx_coll.json")
    quote = saved(tmp_path, "tdx_quote")
    _, output = explain(quote, "--collateral", collateral, "--at", "1750500000", "--json")
    assert json.loads(output)["tcb_status"] == "UpToDate"


def test_says_which_revocation_lists_it_looked_into(tmp_path: Path) -> None:
    members = json.loads(recorded("tdx_coll.json"))
    for name in ("root_ca_crl", "pck_crl"):
        (tmp_path / name).write_bytes(bytes.fromhex(members[name]))
    policy = tmp_path / "trust.toml"
    policy.write_text('[revocation_lists]\nintel-tdx = ["root_ca_crl", "pck_crl"]\n')
    quote = saved(tmp_path, "tdx_quote")
    _, output = explain(quote, "--policy", policy, *AT)
    (line,) = [line for line in output.splitlines() if " revocation " in line]
    assert line.startswith("ok") and "CN=Intel SGX PCK Platform CA" in line
    assert "CN=Intel SGX Root CA" in line and line.endswith("of 2025-06-19; ignored: 0")


@pytest.mark.parametrize("content", [b"", b"not a quote", bytes(70_000)])
def test_says_when_a_file_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "quote"
    path.write_bytes(content)
    with pytest.raises(AsynclaveError):
        explain(path)


def test_says_when_a_certificate_is_not_supported(tmp_path: Path) -> None:
    platform = create_root(tmp_path).platform_chain.read_text()
    der = x509.load_pem_x509_certificate(platform.encode()).public_bytes(Encoding.DER)
    path = tmp_path / "version-7.der"
    path.write_bytes(der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020106")))
    with pytest.raises(AsynclaveError, match="not supported") as caught:
        explain(path, "--certificates", path)
    assert caught.value.code == Code.CONFIG_INVALID


@pytest.mark.parametrize("at", ["-1", "1e30", "999999999999999"])
def test_refuses_a_time_that_no_calendar_has(tmp_path: Path, at: str) -> None:
    assert explain(saved(tmp_path, "sgx_quote"), "--at", at)[0] == 2


@pytest.mark.parametrize(("encoding", "accent"), [("utf-8", "é"), ("ascii", "\\xe9")])
def test_what_nobody_vouches_for_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, encoding: str, accent: str
) -> None:
    stated = IntelQuote.decode(recorded("sgx_quote"), padded=True).facts()
    text = "\x1b[2J\x9b1m[red]\r\u202e\ud800é"
    explanation = Explanation(
        replace(stated, platform=text), {}, (Finding("name", Outcome.REFUSED, "CODE", text),)
    )
    screen = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", screen)
    _show(explanation)
    screen.seek(0)
    shown = f"\\x1b[2J\\x9b1m[red]\\r\\u202e\\ud800{accent}"
    lines = screen.read().splitlines()
    assert lines[0] == f"{'platform':<20} {shown}"
    assert f"CODE {shown}" in lines[-3]


def test_says_when_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(AsynclaveError) as caught:
        explain(tmp_path / "nothing")
    assert caught.value.code == Code.CONFIG_INVALID


def test_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "quote"
    os.mkfifo(path)
    with pytest.raises(AsynclaveError, match="is no regular file") as caught:
        explain(path)
    assert caught.value.code == Code.CONFIG_INVALID
