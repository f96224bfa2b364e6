"""The measured image: reproducible, minimal, sealed."""

from __future__ import annotations

import io
import os
import zipfile

import pytest

from tee_sim import image
from tests.support.enclave import SealedImage


def test_building_twice_gives_the_same_bytes() -> None:
    assert image.build().archive == image.build().archive


def test_client_can_compute_the_reference_value(sealed_image: SealedImage) -> None:
    assert image.measure() == sealed_image.measurement
    assert len(sealed_image.measurement) == 96


def test_any_changed_file_changes_the_measurement() -> None:
    changed = image.build(extra={"strategies/release.py": b"ReleaseRule = None\n"})
    assert changed.measurement != image.measure()


def test_image_holds_neither_transport_nor_launcher() -> None:
    names = zipfile.ZipFile(io.BytesIO(image.build().archive)).namelist()
    assert "strategies/engine.py" in names
    assert "fl_protocol/envelope.py" in names
    assert not [name for name in names if "session" in name or "proto/" in name]
    assert not [name for name in names if "launch" in name or "platform" in name]


def test_manifest_pins_the_dependencies() -> None:
    manifest = zipfile.ZipFile(io.BytesIO(image.build().archive)).read(image.MANIFEST)
    for name in image.DEPENDENCIES:
        assert f'"{name}":{{"sha256":"'.encode() in manifest


def test_sealed_image_cannot_be_changed(sealed_image: SealedImage) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(sealed_image.handle, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(sealed_image.handle, 10)
