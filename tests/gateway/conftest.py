"""One stack for the tests that leave it standing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from fl_server.stack import LocalStack, StackSettings
from tests.support import postgres
from tests.support.sealed import RECIPE, K, RawGateway


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    settings = StackSettings(recipe=RECIPE, k=K, node_patience=5.0, run_patience=5.0)
    with LocalStack(tmp_path_factory.mktemp("stack"), settings) as stack:
        yield stack


@pytest.fixture
def raw(stack: LocalStack) -> Iterator[RawGateway]:
    gateway = RawGateway(stack)
    yield gateway
    gateway.close()


@pytest.fixture
def token(stack: LocalStack, raw: RawGateway) -> Callable[[str], str]:
    """Enrol the raw gateway's identity in a role and return an access token."""

    def obtain(role: str) -> str:
        enrolled = raw.enrol(stack.ticket(role, f"raw-{role}"))
        reply = raw.refresh(enrolled.client_id, enrolled.refresh_token)
        return str(reply.access_token)

    return obtain


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    if postgres.PROGRAMS is None:
        pytest.skip(postgres.REASON)
    with postgres.PostgresServer() as server:
        yield server


_names = count()


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a fresh registry may be kept, in both kinds of database."""
    if request.param == "sqlite":
        return str(tmp_path / "registry.sqlite")
    server: postgres.PostgresServer = request.getfixturevalue("postgres_server")
    return server.database(f"registry_{next(_names)}")
