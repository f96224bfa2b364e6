"""The gateway on a clock that can be set; otherwise it is ``python -m fl_server.gateway``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from asynclave.chaos.real.skew import SkewedClock
from fl_protocol.ports import SystemRng
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.server import serve

CLOCK = "gateway.clock"


def main(path: Path) -> None:
    """Serve until killed; the clock's offset lies beside the configuration."""
    clock = SkewedClock(path.with_name(CLOCK))
    asyncio.run(serve(GatewayConfig.load(path), clock, SystemRng()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
