"""An empty Landlock ruleset: no file, directory or TCP port may be opened any more."""

from __future__ import annotations

import ctypes
import os

from tee_sim.syscalls import LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, Libc

_VERSION_FLAG = 1
# Rights each ABI version added (linux/landlock.h); naming one the kernel does not know fails.
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_BIND_AND_CONNECT = 3
_SIGNALS_AND_ABSTRACT_SOCKETS = 3


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def install(libc: Libc) -> None:
    """Give up every right Landlock knows; needs no-new-privileges.

    Raises
    ------
    OSError
        The kernel has no Landlock or it is switched off.
    """
    abi = _syscall(libc, LANDLOCK_CREATE_RULESET, None, 0, _VERSION_FLAG)
    ruleset, size = _ruleset(abi)
    handle = _syscall(libc, LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        _syscall(libc, LANDLOCK_RESTRICT_SELF, handle, 0)
    finally:
        os.close(handle)


def _ruleset(abi: int) -> tuple[_Ruleset, int]:
    rights = max(bits for since, bits in _FS_RIGHTS.items() if since <= abi)
    ruleset, size = _Ruleset((1 << rights) - 1, 0, 0), 8
    if abi >= 4:
        ruleset.handled_access_net, size = _BIND_AND_CONNECT, 16
    if abi >= 6:
        ruleset.scoped, size = _SIGNALS_AND_ABSTRACT_SOCKETS, 24
    return ruleset, size


def _syscall(libc: Libc, number: int, first: object, second: int, third: int = 0) -> int:
    return libc.call(
        "syscall", ctypes.c_long(number), first, ctypes.c_size_t(second), ctypes.c_uint32(third)
    )
