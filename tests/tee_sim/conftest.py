from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.enclave import Lab, SealedImage, fresh_run
from tests.tee_sim.platform_process import Platform


@pytest.fixture(scope="session")
def sealed_image() -> Iterator[SealedImage]:
    sealed = SealedImage()
    yield sealed
    os.close(sealed.handle)


@pytest.fixture(scope="module")
def running(sealed_image: SealedImage) -> Iterator[Lab]:
    lab = Lab(sealed_image)
    yield lab
    lab.close()


@pytest.fixture
def lab(running: Lab) -> Lab:
    """One enclave serves a module; every test opens its run afresh."""
    running.fetch_newest()
    running.run_id = fresh_run()
    assert running.open_run()["ok"]
    return running


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(tmp_path)
    yield platform
    platform.stop()
