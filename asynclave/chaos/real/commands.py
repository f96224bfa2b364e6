"""Programs of the system that a fault takes."""

from __future__ import annotations

import subprocess


def run(*command: str) -> None:
    """Run a program to its end; raises OSError with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"{command[0]} failed")
