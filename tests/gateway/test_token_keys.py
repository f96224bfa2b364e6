"""A new signing key may be published before it signs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_protocol.codes import ConfigInvalid
from fl_protocol.ports import SystemRng
from fl_server.gateway.token_keys import TokenKeys, rotate
from tests.support.clock import NOW, SetClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key that was rotated just now."""
    path = tmp_path / "token.key"
    path.write_bytes(SystemRng().bytes(32))
    rotate(path, SystemRng())
    os.utime(path, (NOW, NOW))
    return path


def test_a_new_key_is_published_before_it_signs(path: Path) -> None:
    clock = SetClock(NOW)
    keys = TokenKeys(path, "local", clock, lead=60)
    current, previous = (key["kid"] for key in keys.jwks()["keys"])
    assert keys.signer(lambda kid: False).kid == previous
    clock.sleep(59)
    assert keys.signer(lambda kid: False).kid == previous
    clock.sleep(1)
    assert keys.signer(lambda kid: False).kid == current


def test_the_key_before_does_not_sign_once_it_is_revoked(path: Path) -> None:
    keys = TokenKeys(path, "local", SetClock(NOW), lead=60)
    current, previous = (key["kid"] for key in keys.jwks()["keys"])
    assert keys.signer(lambda kid: kid == previous).kid == current


def test_a_key_before_that_is_taken_away_is_valid_no_longer(path: Path) -> None:
    keys = TokenKeys(path, "local", SetClock(NOW))
    assert len(keys.jwks()["keys"]) == 2
    path.with_suffix(".previous").unlink()
    assert len(keys.jwks()["keys"]) == 1


def test_a_key_file_that_cannot_be_read_is_tried_again(path: Path) -> None:
    keys = TokenKeys(path, "local", SetClock(NOW))
    before, good = keys.jwks(), SystemRng().bytes(32)
    path.write_bytes(b"short")
    for _ in range(2):
        with pytest.raises(ConfigInvalid):
            keys.jwks()
    path.write_bytes(good)
    assert keys.jwks() != before


def test_a_key_file_that_is_missing_is_named_and_tried_again(path: Path) -> None:
    keys, content = TokenKeys(path, "local", SetClock(NOW)), path.read_bytes()
    path.unlink()
    for missing in (keys.jwks, lambda: TokenKeys(path, "local", SetClock(NOW))):
        with pytest.raises(ConfigInvalid, match=path.name):
            missing()
    path.write_bytes(content)
    assert keys.jwks()["keys"]


def test_without_a_lead_or_a_key_before_the_new_one_signs_at_once(path: Path) -> None:
    keys = TokenKeys(path, "local", SetClock(NOW))
    assert keys.signer(lambda kid: False).kid == keys.jwks()["keys"][0]["kid"]
    path.with_suffix(".previous").unlink()
    alone = TokenKeys(path, "local", SetClock(NOW), lead=60)
    assert alone.signer(lambda kid: False).kid == keys.jwks()["keys"][0]["kid"]


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")


@AS_ROOT
def test_keys_that_root_rotates_belong_to_the_gateway(path: Path) -> None:
    before = path.read_bytes()
    os.chown(path, 10001, 10002)
    rotate(path, SystemRng())
    previous = path.with_suffix(".previous")
    assert previous.read_bytes() == before != path.read_bytes()
    for file in (path, previous):
        found = file.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (10001, 10002, 0o600)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_whoever_owns_the_folder_gets_no_other_file_from_a_rotation(
    path: Path, link: Callable[[Path, Path], None]
) -> None:
    secret = path.with_name("platform.key")
    secret.write_bytes(bytes(32))
    path.unlink()
    link(secret, path)
    previous = path.with_suffix(".previous").read_bytes()
    with pytest.raises((ConfigInvalid, OSError)):
        rotate(path, SystemRng())
    assert path.with_suffix(".previous").read_bytes() == previous
