"""Processes that leave no core."""

import resource


def leave_no_core() -> None:
    """Keep this process and those it starts from leaving a core: it would hold keys and updates."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
