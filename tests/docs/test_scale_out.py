"""The commands of the page on several gateways run as they are printed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import envoy

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "how-to" / "scale-out.md"


def free_ports(count: int) -> list[int]:
    """Return neighbouring ports that nobody listens on at the moment."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            ports = [first.getsockname()[1] + number for number in range(count)]
        taken = [port for port in ports if _is_taken(port)]
        if not taken:
            return ports


def _is_taken(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError):
        return True
    return False


@pytest.mark.skipif(not envoy.PROGRAM.exists(), reason=envoy.REASON)
def test_a_stranger_can_follow_the_page(tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL))
    for written, port in zip((9443, 9444, 9445), free_ports(3), strict=True):
        script = script.replace(str(written), str(port))
    # Where the page is read from a checkout, this test is in a folder of its own.
    script = script.replace("REPOSITORY=$PWD", f"REPOSITORY={REPOSITORY}")
    log = tmp_path / "log"
    with log.open("w") as output:
        followed = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(REPOSITORY),
            },
        )
    try:
        status = followed.wait(120)
    finally:
        # What the page leaves running, and nothing else.
        os.killpg(followed.pid, signal.SIGKILL)
    assert status == 0, log.read_text()[-3000:]
    said = re.findall(r"node-0-[0-9a-f]{8} has checked enclave 1\n", log.read_text())
    assert len(said) == 2 * 5, log.read_text()[-3000:]
