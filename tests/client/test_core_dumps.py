"""What runs a node's tasks lets none of them leave a core."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import {module} as module

hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

def limit(*_):
    print(resource.getrlimit(resource.RLIMIT_CORE))

module.{starts} = limit
module.main(["--insecure"])
"""


@pytest.mark.parametrize(
    ("module", "starts"),
    [
        ("fl_client.supernode.__main__", "Keeper.run"),
        ("fl_client.warm.superexec", "run_superexec_with"),
    ],
)
def test_tasks_leave_no_core(module: str, starts: str) -> None:
    program = PROGRAM.format(module=module, starts=starts)
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert told.stdout == "(0, 0)\n"
