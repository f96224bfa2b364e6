"""One stack for the client tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fl_server.stack import LocalStack, StackSettings
from fl_sim.flwr_compat import adopt_identity
from tests.support.sealed import RECIPE, K


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    settings = StackSettings(recipe=RECIPE, k=K, node_patience=5.0, run_patience=1.0)
    with LocalStack(tmp_path_factory.mktemp("stack"), settings) as stack:
        yield stack


@pytest.fixture(autouse=True)
def flower_process() -> None:
    """Let messages be made outside a process that Flower has started."""
    adopt_identity(1)
