"""The gateway on a clock that can be set; otherwise it is ``python -m fl_server.gateway``."""

from __future__ import annotations

import sys
from pathlib import Path

from asynclave.chaos.real.skew import SkewedClock
from fl_server.gateway.server import run

CLOCK = "gateway.clock"


def main(path: Path) -> None:
    """Serve until killed; the clock's offset lies beside the configuration."""
    run(path, SkewedClock(path.with_name(CLOCK)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
