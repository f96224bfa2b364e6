"""The protocol page says what the code does."""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol import canonical
from fl_protocol.codes import Code
from fl_protocol.header import Header
from fl_protocol.identity import grant_message
from fl_protocol.membership import Membership, sign_membership
from fl_protocol.proof import thumbprint
from fl_protocol.receipts import Head, Opening, Receipt, Release, updates_digest
from fl_server.gateway.auth import REQUIRED_SCOPES
from fl_server.gateway.statuses import status_for
from strategies.reject import Reject
from tee_sim.evidence import EnclaveKeys, report_data
from tee_sim.hop import HopSigner, Origin, origin
from tests.support.clock import NOW, SetClock

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()


class _Counted:
    """The nonce first, then the span id."""

    def bytes(self, n: int) -> bytes:
        return b"\x05" * n if n == 16 else b"\x07" * n


def mac() -> str:
    assert NOW == 1_800_000_000
    token = origin.set(Origin("/", "06" * 16))
    request = HopSigner(b"\x08" * 32, SetClock(), _Counted()).sign({"op": "STATUS"})
    origin.reset(token)
    return str(request["mac"])


VALUES = {
    "canonical JSON": canonical.encode({"b": [True, "é"], "a": -1}).decode(),
    "public key": PUBLIC.hex(),
    "thumbprint": thumbprint(PUBLIC),
    "membership": sign_membership(Membership.of("demo", "client-1", PUBLIC, "client"), KEY)[
        :64
    ].hex(),
    "grant": hashlib.sha256(
        grant_message("client-1", 1_800_000_000, b"\x02" * 16, PUBLIC)
    ).hexdigest(),
    "report data": report_data(7, EnclaveKeys(PUBLIC, PUBLIC), "03" * 32, b"\x04" * 32),
    "updates digest": updates_digest(["u1", "u2"]),
    "mac": mac(),
}


@pytest.mark.parametrize("name", VALUES)
def test_names_the_value_to_check_against(name: str) -> None:
    assert f"`{VALUES[name]}` |" in PAGE, VALUES[name]


def test_names_every_member_of_headers_and_records() -> None:
    for kind in (Header, Opening, Receipt, Release, Membership):
        for field in fields(kind):
            assert f"`{field.name}`" in PAGE, field.name
    assert f"{{{', '.join(sorted(field.name for field in fields(Head)))}}}" in PAGE


def test_names_every_code_with_its_status() -> None:
    table = PAGE[PAGE.index("## Codes") : PAGE.index("## Values")]
    for code in Code:
        (row,) = (line for line in table.splitlines() if f"`{code}`" in line)
        where_found = row.endswith("raised where they are found |")
        assert where_found or status_for(code).name in row, code


def test_names_no_code_that_does_not_exist() -> None:
    table = PAGE[PAGE.index("## Codes") : PAGE.index("## Values")]
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", table))
    assert named <= {*map(str, Code), *(reject.value for reject in Reject)}


def test_names_every_method_with_its_scope() -> None:
    for method, scope in REQUIRED_SCOPES.items():
        (row,) = (
            line for line in PAGE.splitlines() if line.startswith("|") and f"`{method}`" in line
        )
        assert f"`{scope}`" in row if scope else "none" in row


def test_names_every_domain() -> None:
    root = Path(__file__).resolve().parents[2]
    used = {
        domain
        for room in ("fl_protocol", "tee_sim", "fl_client", "fl_server")
        for path in (root / room).rglob("*.py")
        for domain in re.findall(r'b"(asynclave/[a-z-]+/v1)\\0"', path.read_text())
    }
    assert len(used) >= 10
    assert {domain for domain in used if f"`{domain}`" not in PAGE} == set()
