"""The registry: tickets, refresh families and revocations survive and are enforced."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_protocol.codes import Code, EnrolmentRejected, GatewayUnavailable, TokenRejected
from fl_protocol.tokens import MAX_TTL, REFRESH_GRACE, SKEW
from fl_server.gateway.registry import MOST_FAMILIES, Family, Registry, digest, open_registry

KEY, OTHER_KEY = bytes(32), bytes([1]) * 32


@pytest.fixture
def registry(location: str) -> Iterator[Registry]:
    with open_registry(location) as registry:
        registry.add_ticket("ticket", "client", "node-1", expires_at=100.0)
        yield registry


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


def test_a_clients_oldest_families_make_room(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.add_ticket("other", "client", "node-2", expires_at=100.0)
    neighbour = registry.redeem("other", OTHER_KEY, now=1.0)
    registry.start_family(Family("theirs", neighbour.client_id, "jkt"), "theirs", 0.0, 50.0)
    for number in range(MOST_FAMILIES + 2):
        family = Family(f"f{number}", client.client_id, "jkt")
        registry.start_family(family, f"r{number}", 0.0, expires_at=100.0 + number)
    for number in (0, 1):
        with pytest.raises(TokenRejected, match=r"^TOKEN_MALFORMED"):
            registry.rotate(f"r{number}", "new", client.client_id, "jkt", now=2.0)
    assert registry.rotate("r2", "s2", client.client_id, "jkt", now=2.0).family == "f2"
    assert registry.rotate("theirs", "s", neighbour.client_id, "jkt", now=2.0).family == "theirs"


def test_revoked_families_that_made_room_are_forgotten_with_their_last_access_token(
    registry: Registry,
) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    for number in range(2 * MOST_FAMILIES):
        family = Family(f"f{number}", client.client_id, "jkt")
        registry.start_family(family, f"r{number}", 2.0, expires_at=1e6 + number)
        registry.rotate(f"r{number}", f"s{number}", client.client_id, "jkt", now=2.0)
        with pytest.raises(TokenRejected, match=r"^REFRESH_REUSED"):
            registry.rotate(f"r{number}", "stolen", client.client_id, "thief", now=2.0)

    registry.prune(2.0 + MAX_TTL)
    assert registry.revoked(family="f0") == {"family"}
    registry.prune(2.0 + MAX_TTL + SKEW + 1.0)

    kept = [bool(registry.revoked(family=f"f{number}")) for number in range(2 * MOST_FAMILIES)]
    assert kept == MOST_FAMILIES * [False] + MOST_FAMILIES * [True]


def test_a_ticket_that_has_expired_still_gives_its_enrolment_again(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=99.0)
    assert registry.redeem("ticket", KEY, now=1000.0) == client
    with pytest.raises(EnrolmentRejected, match=r"^ENROL_TICKET_USED"):
        registry.redeem("ticket", OTHER_KEY, now=1000.0)


def test_reusing_a_refresh_token_revokes_the_whole_family(
    registry: Registry, location: str
) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    family = Family("f", client.client_id, "jkt")
    registry.start_family(family, "r0", 0.0, expires_at=100.0)
    assert registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0) == family
    with pytest.raises(TokenRejected, match=r"^REFRESH_REUSED"):
        registry.rotate("r0", "r1", client.client_id, "jkt", now=3.0 + REFRESH_GRACE)
    # A gateway that is restarted, or another one.
    with open_registry(location) as again:
        assert again.revoked(family="f")
        with pytest.raises(TokenRejected, match=r"^TOKEN_REVOKED"):
            again.rotate("r1", "r2", client.client_id, "jkt", now=3.0)


def test_an_exchange_is_repeated_for_its_own_key_while_its_reply_may_be_lost(
    registry: Registry,
) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    family = Family("f", client.client_id, "jkt")
    registry.start_family(family, "r0", 0.0, expires_at=100.0)
    registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0)
    assert registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0 + REFRESH_GRACE) == family
    assert registry.rotate("r1", "r2", client.client_id, "jkt", now=3.0 + REFRESH_GRACE) == family


def test_an_exchange_is_repeated_at_a_gateway_whose_clock_is_behind(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    family = Family("f", client.client_id, "jkt")
    registry.start_family(family, "r0", 0.0, expires_at=100.0)
    registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0 + SKEW)
    assert registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0) == family
    with pytest.raises(TokenRejected, match=r"^REFRESH_REUSED"):
        registry.rotate("r0", "r1", client.client_id, "jkt", now=1.0)


@pytest.mark.parametrize(
    ("successor", "jkt"), [("r1", "other"), ("r-other", "jkt")], ids=["key", "successor"]
)
def test_an_exchange_is_not_repeated_for_anybody_else(
    registry: Registry, successor: str, jkt: str
) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.start_family(Family("f", client.client_id, "jkt"), "r0", 0.0, expires_at=100.0)
    registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0)
    with pytest.raises(TokenRejected, match=r"^REFRESH_REUSED"):
        registry.rotate("r0", successor, client.client_id, jkt, now=2.0)
    assert registry.revoked(family="f")


def test_an_exchange_is_not_repeated_once_its_successor_was_used(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.start_family(Family("f", client.client_id, "jkt"), "r0", 0.0, expires_at=100.0)
    registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0)
    registry.rotate("r1", "r2", client.client_id, "jkt", now=2.0)
    with pytest.raises(TokenRejected, match=r"^REFRESH_REUSED"):
        registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0)
    assert registry.revoked(family="f")


def test_a_refresh_token_is_bound_to_its_proof_key_and_time(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.start_family(Family("f", client.client_id, "jkt"), "r0", 0.0, expires_at=100.0)
    with pytest.raises(TokenRejected, match=r"^PROOF_INVALID"):
        registry.rotate("r0", "r1", client.client_id, "other", now=2.0)
    with pytest.raises(TokenRejected, match=r"^TOKEN_EXPIRED"):
        registry.rotate("r0", "r1", client.client_id, "jkt", now=101.0)
    with pytest.raises(TokenRejected, match=r"^TOKEN_MALFORMED"):
        registry.rotate("guess", "r1", client.client_id, "jkt", now=2.0)
    registry.rotate("r0", "r1", client.client_id, "jkt", now=2.0)


@pytest.mark.parametrize("now", [2.0, 3.0 + REFRESH_GRACE], ids=["at once", "later"])
def test_a_refresh_token_under_another_clients_name_is_refused_and_changes_nothing(
    registry: Registry, now: float
) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.start_family(Family("f", client.client_id, "jkt"), "r0", 0.0, expires_at=100.0)
    with pytest.raises(TokenRejected, match=r"^TOKEN_CLAIMS"):
        registry.rotate("r0", "r1", "somebody-else", "jkt", now=2.0)
    # Not even the successor that was asked for first is remembered.
    registry.rotate("r0", "s1", client.client_id, "jkt", now)
    with pytest.raises(TokenRejected, match=r"^TOKEN_CLAIMS"):
        registry.rotate("r0", "s1", "somebody-else", "jkt", now + 2 * REFRESH_GRACE)
    registry.rotate("s1", "s2", client.client_id, "jkt", now)


def test_the_file_holds_no_secret(tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry.sqlite") as registry:
        registry.add_ticket("secret-ticket", "client", "node-1", expires_at=100.0)
        client = registry.redeem("secret-ticket", KEY, now=1.0)
        family = Family("f", client.client_id, "j")
        registry.start_family(family, "r0-secret-refresh", 0.0, expires_at=9.0)
    content = b"".join(path.read_bytes() for path in tmp_path.glob("registry.sqlite*"))
    assert client.client_id.encode() in content
    assert b"secret-ticket" not in content and b"r0-secret-refresh" not in content
    assert (tmp_path / "registry.sqlite").stat().st_mode & 0o777 == 0o600


def test_families_and_tickets_that_nobody_can_use_are_forgotten(registry: Registry) -> None:
    client = registry.redeem("ticket", KEY, now=1.0)
    registry.add_ticket("unused", "client", "node-2", expires_at=100.0)
    for name, expires_at in (("old", 100.0), ("new", 5000.0)):
        registry.start_family(Family(name, client.client_id, "jkt"), f"r-{name}", 0.0, expires_at)
        registry.revoke("family", name)
    # An access token issued at the family's very end is still refused.
    registry.prune(now=1000.0)
    assert registry.revoked(family="old")
    registry.prune(now=1100.0)
    assert not registry.revoked(family="old")
    with pytest.raises(TokenRejected, match=r"^TOKEN_MALFORMED"):
        registry.rotate("r-old", "next", client.client_id, "jkt", now=1100.0)
    with pytest.raises(TokenRejected, match=r"^TOKEN_REVOKED"):
        registry.rotate("r-new", "next", client.client_id, "jkt", now=1100.0)
    with pytest.raises(EnrolmentRejected, match=r"^ENROL_TICKET_INVALID"):
        registry.redeem("unused", OTHER_KEY, now=1.0)
    assert registry.client(client.client_id) == client


def test_what_sqlite_says_is_told_and_nothing_that_was_asked(tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry.sqlite") as registry:
        with pytest.raises(GatewayUnavailable) as refusal:
            registry.add_ticket("secret", "client", "node-0", math.nan)
        assert refusal.value.code == Code.REGISTRY_UNAVAILABLE
        assert "(SQLITE_CONSTRAINT_NOTNULL)" in refusal.value.sentence
        assert digest("secret") not in refusal.value.sentence
