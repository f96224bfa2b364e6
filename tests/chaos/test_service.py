import subprocess
import sys
from pathlib import Path

import pytest

from asynclave.chaos.real.service import started
from fl_protocol.codes import Code, StorageFailed

_SCRIPT = """
import os, sys
from pathlib import Path
from asynclave.chaos.real.service import started
from fl_protocol.codes import Code, StorageFailed

tries = Path(sys.argv[1])

def start():
    with tries.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if len(tries.read_text().split()) < 3:
        raise StorageFailed(Code.JOURNAL_FULL)
    return "started"

print(started(start))
"""


def test_a_process_that_finds_its_disk_full_starts_again(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    command = [sys.executable, "-c", _SCRIPT, str(tries)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "started\n"
    assert ended.stderr.count("JOURNAL_FULL") == 2
    # As one process, so that whoever watches it need not know.
    assert len(set(tries.read_text().split())) == 1
    assert len(tries.read_text().split()) == 3


def test_a_process_with_another_mistake_ends() -> None:
    def start() -> None:
        raise StorageFailed(Code.JOURNAL_DAMAGED)

    with pytest.raises(StorageFailed):
        started(start)
