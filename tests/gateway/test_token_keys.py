import os
import stat
from pathlib import Path

import pytest

from fl_protocol.ports import SystemRng
from fl_server.gateway.token_keys import rotate


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners")
def test_keys_that_root_rotates_belong_to_the_gateway(tmp_path: Path) -> None:
    key = tmp_path / "token.key"
    key.write_bytes(bytes(32))
    os.chown(key, 10001, 10002)
    rotate(key, SystemRng())
    assert key.read_bytes() != bytes(32)
    assert key.with_suffix(".previous").read_bytes() == bytes(32)
    for file in (key, key.with_suffix(".previous")):
        found = file.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (10001, 10002, 0o600)
