"""The registry: tickets, refresh families and revocations survive and are enforced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_protocol.codes import EnrolmentRejected, TokenRejected
from fl_server.gateway.registry import Family, Registry

KEY, OTHER_KEY = bytes(32), bytes([1]) * 32


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "registry.sqlite")
    registry.add_ticket("ticket", "client", "node-1", expires_at=100.0)
    yield registry
    registry.close()


def test_a_ticket_enrols_one_identity_only(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    assert client.client_id.startswith("node-1-")
    assert registry.redeem("ticket", KEY, now=2.0) == client
    with pytest.raises(EnrolmentRejected, match=r"^ENROL_TICKET_USED"):
        registry.redeem("ticket", OTHER_KEY, now=3.0)


@pytest.mark.parametrize(("ticket", "now"), [("guess", 1.0), ("ticket", 101.0)])
def test_an_unknown_or_expired_ticket_is_refused(
    registry: Registry, ticket: str, now: float
) -> None:
    with pytest.raises(EnrolmentRejected, match=r"^ENROL_TICKET_INVALID"):
        registry.redeem(ticket, KEY, now)


def test_an_identity_cannot_take_a_second_role(registry: Registry) -> None:
    registry.redeem("ticket", KEY, now=1.0)
    registry.add_ticket("other", "server", "node-1", expires_at=100.0)
    with pytest.raises(EnrolmentRejected, match=r"^IDENTITY_INVALID"):
        registry.redeem("other", KEY, now=1.0)


def test_reusing_a_refresh_token_revokes_the_whole_family(
    registry: Registry, tmp_path: Path
) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    family = Family("f", client.client_id, "jkt")
    registry.start_family(family, "r0", expires_at=100.0)
    assert registry.rotate("r0", "r1", "jkt", now=2.0) == family
    with pytest.raises(TokenRejected, match=r"^REFRESH_REUSED"):
        registry.rotate("r0", "thief", "jkt", now=3.0)
    # A restarted gateway reads the same file.
    again = Registry(tmp_path / "registry.sqlite")
    assert again.is_revoked(family="f")
    with pytest.raises(TokenRejected, match=r"^TOKEN_REVOKED"):
        again.rotate("r1", "r2", "jkt", now=3.0)
    again.close()


def test_a_refresh_token_is_bound_to_its_proof_key_and_time(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.start_family(Family("f", client.client_id, "jkt"), "r0", expires_at=100.0)
    with pytest.raises(TokenRejected, match=r"^PROOF_INVALID"):
        registry.rotate("r0", "r1", "other", now=2.0)
    with pytest.raises(TokenRejected, match=r"^TOKEN_EXPIRED"):
        registry.rotate("r0", "r1", "jkt", now=101.0)
    with pytest.raises(TokenRejected, match=r"^TOKEN_MALFORMED"):
        registry.rotate("guess", "r1", "jkt", now=2.0)
    registry.rotate("r0", "r1", "jkt", now=2.0)


def test_the_file_holds_no_secret(registry: Registry, tmp_path: Path) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.start_family(Family("f", client.client_id, "j"), "r0-secret-refresh", expires_at=9.0)
    content = b"".join(path.read_bytes() for path in tmp_path.glob("registry.sqlite*"))
    assert b"r0-secret-refresh" not in content
    assert (tmp_path / "registry.sqlite").stat().st_mode & 0o777 == 0o600


def test_families_and_tickets_that_nobody_can_use_are_forgotten(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.add_ticket("unused", "client", "node-2", expires_at=100.0)
    for name, expires_at in (("old", 100.0), ("new", 5000.0)):
        registry.start_family(Family(name, client.client_id, "jkt"), f"r-{name}", expires_at)
        registry.revoke("family", name)
    # An access token issued at the family's very end is still refused.
    registry.prune(now=1000.0)
    assert registry.is_revoked(family="old")
    registry.prune(now=1100.0)
    assert not registry.is_revoked(family="old")
    with pytest.raises(TokenRejected, match=r"^TOKEN_MALFORMED"):
        registry.rotate("r-old", "next", "jkt", now=1100.0)
    with pytest.raises(TokenRejected, match=r"^TOKEN_REVOKED"):
        registry.rotate("r-new", "next", "jkt", now=1100.0)
    with pytest.raises(EnrolmentRejected, match=r"^ENROL_TICKET_INVALID"):
        registry.redeem("unused", OTHER_KEY, now=1.0)
    assert registry.client(client.client_id) == client
