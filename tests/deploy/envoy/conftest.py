from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_server.stack import LocalStack
from tests.support.envoy import SETTINGS, EnvoyProxy
from tests.support.sealed import RawGateway


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, for the socket in it."""
    path = Path(tempfile.mkdtemp(prefix="envoy-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with LocalStack(tmp_path_factory.mktemp("stack"), SETTINGS) as stack:
        yield stack


@pytest.fixture(scope="module")
def proxy(stack: LocalStack) -> Iterator[EnvoyProxy]:
    path = Path(tempfile.mkdtemp(prefix="envoy-"))
    with EnvoyProxy(stack, path) as proxy:
        yield proxy
    shutil.rmtree(path)


@pytest.fixture
def raw(stack: LocalStack, proxy: EnvoyProxy) -> Iterator[RawGateway]:
    raw = RawGateway(stack, proxy.address)
    yield raw
    raw.close()
