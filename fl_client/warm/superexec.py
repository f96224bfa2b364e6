"""``python -m fl_client.warm [--preload MODULE]... ARGUMENT...``: a warm ``flower-superexec``.

Takes the arguments of ``flower-superexec`` and goes beside a SuperNode that was started with
``--isolation process``, which authenticates it with ``--superexec-auth-secret-file``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from fl_client.warm.executor import ForkExecutor
from fl_client.warm.flwr_compat import POLL_VARIABLE, run_superexec_with
from fl_protocol.core_dumps import leave_no_core
from fl_protocol.flower import require_supported

# Flower's own is a second, which is longer than a forked task takes.
_POLL_SECONDS = "0.1"


def parser() -> argparse.ArgumentParser:
    """Return the parser of what ``flower-superexec`` does not know."""
    options = argparse.ArgumentParser("fl_client.warm", description=__doc__, allow_abbrev=False)
    options.add_argument(
        "--preload", metavar="MODULE", action="append", default=[], help="Import it once."
    )
    return options


def main(arguments: Sequence[str]) -> None:
    """Run until stopped."""
    require_supported()
    leave_no_core()
    options, of_flower = parser().parse_known_args(arguments)
    os.environ.setdefault(POLL_VARIABLE, _POLL_SECONDS)
    run_superexec_with(lambda: ForkExecutor(options.preload), of_flower)
