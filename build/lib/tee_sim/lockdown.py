"""Layers of isolation around the enclave process, each optional and each reported.

A layer that the kernel, the architecture or missing privileges refuse is reported as inactive
instead of stopping the enclave: evidence carries the report, and relying parties decide.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from tee_sim import landlock, seccomp
from tee_sim.syscalls import (
    PR_SET_DUMPABLE,
    PR_SET_MDWE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    Libc,
)

ACTIVE = "active"
LAYERS = (
    "parent_death_signal",
    "no_core_dump",
    "not_dumpable",
    "locked_memory",
    "namespaces",
    "own_user",
    "closed_files",
    "no_new_privileges",
    "no_processes",
    "no_executable_memory",
    "landlock",
    "no_new_files",
    "seccomp",
)

_NAMESPACES = {"network": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_MDWE_REFUSE_EXEC_GAIN = 1


@dataclass
class Lockdown:
    """Confine this process for good, in two steps: `conceal`, then `confine`.

    Parameters
    ----------
    channels : collection of int
        The file descriptors to keep.
    parent : int
        Process id of the launcher.
    user : int, optional
        User and group id to change to; None keeps the present one.
    skip : collection of str
        Layers to leave out.
    """

    channels: Collection[int]
    parent: int
    user: int | None = None
    skip: Collection[str] = ()
    report: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._libc = Libc()

    def conceal(self) -> None:
        """Hide this process's memory from its user's other processes; do it before making keys."""
        self._try("parent_death_signal", self._die_with_parent)
        self._try("no_core_dump", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
        self._try("not_dumpable", self._hide)

    def confine(self) -> dict[str, str]:
        """Take away everything but memory and the channels.

        Import and exercise everything first: a later import, a traceback or a printed warning
        would open a file and end the process.

        Returns
        -------
        dict of str to str
            Each layer of `LAYERS` with "active" or why it is not.
        """
        self._try("locked_memory", self._lock_memory)
        self._try("namespaces", self._unshare)
        self._try("own_user", self._change_user)
        self._try("closed_files", self._close_files)
        self._try("no_new_privileges", lambda: self._libc.prctl(PR_SET_NO_NEW_PRIVS, 1))
        self._try("no_processes", lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)))
        self._try(
            "no_executable_memory", lambda: self._libc.prctl(PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN)
        )
        self._try("landlock", lambda: landlock.install(self._libc))
        # Landlock itself needs a descriptor, so this comes after it.
        self._try("no_new_files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0)))
        self._try("seccomp", lambda: seccomp.install(self._libc))
        return self.report

    def _try(self, layer: str, step: Callable[[], object]) -> None:
        if layer in self.skip:
            self.report[layer] = "inactive (switched off)"
            return
        try:
            outcome = step()
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            self.report[layer] = f"inactive ({errno.errorcode.get(number or 0, 'refused')})"
        else:
            self.report[layer] = outcome if isinstance(outcome, str) else ACTIVE

    def _die_with_parent(self) -> None:
        self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # The launcher may have died before the request was made.
        if os.getppid() != self.parent:
            os._exit(1)

    def _hide(self) -> None:
        self._libc.prctl(PR_SET_DUMPABLE, 0)

    def _lock_memory(self) -> str:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        flags = _MCL_CURRENT | _MCL_ONFAULT
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
        except (OSError, ValueError):
            # With a limit in force, locking future pages too would make allocations fail.
            self._libc.call("mlockall", flags)
            return "active (pages mapped at start)"
        self._libc.call("mlockall", flags | _MCL_FUTURE)
        return ACTIVE

    def _unshare(self) -> None:
        self._libc.call("unshare", ctypes.c_int(sum(_NAMESPACES.values())))

    def _change_user(self) -> None:
        if self.user is None:
            raise OSError(errno.EPERM, "no user to change to")
        os.setgroups([])
        os.setresgid(self.user, self.user, self.user)
        os.setresuid(self.user, self.user, self.user)
        # The kernel forgets both when credentials change.
        if "parent_death_signal" not in self.skip:
            self._die_with_parent()
        if "not_dumpable" not in self.skip:
            self._hide()

    def _close_files(self) -> None:
        start = 0
        for kept in sorted(self.channels):
            os.closerange(start, kept)
            start = kept + 1
        os.closerange(start, os.sysconf("SC_OPEN_MAX"))
