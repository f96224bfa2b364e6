"""How glibc treats the memory of large vectors.

By default every buffer above a threshold is mapped when it is allocated and unmapped when it is
freed, so each update and each merge pays for fresh pages again. Where buffers of the same sizes
come and go, keeping what was freed is both faster and bounded: the process stays at its peak.
"""

from __future__ import annotations

from tee_sim.syscalls import Libc

# malloc.h; a threshold of -1 never gives memory back.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_OPTIONS = ((_TRIM_THRESHOLD, -1), (_TOP_PAD, 16 << 20), (_MMAP_MAX, 0), (_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Have this process keep freed memory for its next allocations.

    Returns
    -------
    bool
        False where the C library has no such options; memory is then as ever.
    """
    libc = Libc()
    try:
        return all([libc.call("mallopt", option, value) == 1 for option, value in _OPTIONS])
    except OSError:
        return False
