"""What somebody has to do for a process that cannot start for want of disk space."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from fl_protocol.codes import Code, StorageFailed

_RESTART_SECONDS = 0.5

_Service = TypeVar("_Service")


def started(start: Callable[[], _Service]) -> _Service:
    """Return what `start` returns; begin the process anew when it finds its disk full."""
    try:
        return start()
    except StorageFailed as error:
        if error.code != Code.JOURNAL_FULL:
            raise
        print(f"{error}; starting again", file=sys.stderr, flush=True)
        time.sleep(_RESTART_SECONDS)
        # Keeps the process id, and that it dies with its parent.
        os.execv(sys.executable, sys.orig_argv)
