"""Run the gateway: `python -m fl_server.gateway CONFIG.json`."""

from __future__ import annotations

import sys
from pathlib import Path

from fl_protocol.codes import AsynclaveError
from fl_protocol.core_dumps import leave_no_core
from fl_server.gateway.server import run


def main(arguments: list[str]) -> int:
    """Serve the configuration file named on the command line; return the exit status."""
    if len(arguments) != 1:
        print("usage: python -m fl_server.gateway CONFIG.json", file=sys.stderr)
        return 2
    leave_no_core()
    try:
        run(Path(arguments[0]))
    except AsynclaveError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
