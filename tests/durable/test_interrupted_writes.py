"""What a process that was killed in the middle of a write left behind takes no room for ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fl_server.durable.folder import open_saved
from fl_server.intake.records import MODEL, SERVER, RunRecords, head_name
from fl_server.stack import LocalStack, StackSettings
from tests.support.sealed import RECIPE, K, client, open_run, trained

KILLED = """
import os, signal, sys
from pathlib import Path
from fl_protocol.ports import LocalDisk

os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
LocalDisk().write_atomic(Path(sys.argv[1]), b"half done")
"""


def killed_while_writing(path: Path) -> None:
    before = set(hidden_in(path.parent))
    status = subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode
    assert status == -9
    assert len(set(hidden_in(path.parent)) - before) == 1


def hidden_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def test_a_saved_run(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").touch()
    killed_while_writing(tmp_path / "checkpoint-000000000001.npz")
    with open_saved(tmp_path):
        assert hidden_in(tmp_path) == [".gitignore"]


def test_the_records_of_a_run(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").touch()
    for name in (MODEL, SERVER, head_name(3)):
        killed_while_writing(tmp_path / name)
    RunRecords(tmp_path).close()
    assert hidden_in(tmp_path) == [".gitignore"]


def test_a_nodes_outbox(tmp_path: Path) -> None:
    with LocalStack(tmp_path / "stack", StackSettings(recipe=RECIPE, k=K)) as stack:
        intake = open_run(stack, "torn", watch_interval=3600)
        node = client(stack, "node")
        node.upload(trained("torn", 1.0))
        (update,) = tmp_path.rglob("*.update")
        killed_while_writing(update)
        assert node.settle("torn", trained("torn", 1.0).base_digest) is not None
        assert hidden_in(update.parent) == []
        intake.close()


def test_the_platforms_sealed_state(tmp_path: Path) -> None:
    with LocalStack(tmp_path, StackSettings(recipe=RECIPE, k=K)) as stack:
        sealed = tmp_path / "platform" / "sealed"
        killed_while_writing(sealed / ("0" * 64 + ".sealed"))
        stack.restart_launcher()
        assert hidden_in(sealed) == []
        assert (sealed / "root.key").exists()
