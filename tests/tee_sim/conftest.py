from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.enclave import Lab, SealedImage, fresh_run


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
