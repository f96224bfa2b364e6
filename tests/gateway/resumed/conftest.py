"""A stack of its own for each test: they end its processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_server.stack import LocalStack
from tests.gateway.resumed.support import SETTINGS


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    with LocalStack(tmp_path / "stack", SETTINGS) as stack:
        yield stack
