import stat

import pytest

from fl_protocol.ports import LocalDisk


def test_write_replaces_the_whole_file_with_the_mode_asked_for(tmp_path):
    disk, path = LocalDisk(), tmp_path / "folder" / "file"
    for mode, data in ((0o644, b"a longer first version"), (0o600, b"second")):
        disk.write_atomic(path, data, mode)
        assert disk.read(path) == data
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    disk, path = LocalDisk(), tmp_path / "file"
    disk.write_atomic(path, b"old")
    with pytest.raises(TypeError):
        disk.write_atomic(path, "not bytes")
    assert disk.read(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]
