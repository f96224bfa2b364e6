"""System calls that Python's standard library does not wrap."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Mapping
from types import MappingProxyType

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
PR_SET_MDWE = 65

# The Landlock calls came late enough to have one number on every architecture.
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_RESTRICT_SELF = 446

X86_64 = "x86_64"
AARCH64 = "aarch64"

# What a running enclave needs: memory, its sockets, time, randomness, ending. No call that
# opens, executes, forks, traces, or receives a file descriptor.
ENCLAVE_CALLS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        X86_64: MappingProxyType(
            {
                "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8,
                "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13,
                "rt_sigprocmask": 14, "rt_sigreturn": 15, "sched_yield": 24, "mremap": 25,
                "madvise": 28, "nanosleep": 35, "getpid": 39, "sendto": 44, "recvfrom": 45,
                "exit": 60, "gettimeofday": 96, "getrusage": 98, "sigaltstack": 131,
                "gettid": 186, "futex": 202, "sched_getaffinity": 204, "restart_syscall": 219,
                "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232,
                "getrandom": 318, "membarrier": 324, "rseq": 334,
            }
        ),
        AARCH64: MappingProxyType(
            {
                "epoll_pwait": 22, "close": 57, "lseek": 62, "read": 63, "write": 64, "ppoll": 73,
                "fstat": 80,
                "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101,
                "clock_gettime": 113, "clock_nanosleep": 115, "sched_getaffinity": 123,
                "sched_yield": 124, "restart_syscall": 128, "sigaltstack": 132,
                "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
                "getrusage": 165, "gettimeofday": 169, "getpid": 172, "gettid": 178,
                "sendto": 206, "recvfrom": 207, "brk": 214, "munmap": 215, "mremap": 216,
                "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278,
                "membarrier": 283, "rseq": 293,
            }
        ),
    }
)  # fmt: skip


class Libc:
    """The C library of this process, with failures raised as OSError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)

    def call(self, name: str, *arguments: object) -> int:
        """Call a function that returns -1 on failure; one the library lacks fails, too."""
        function = getattr(self._library, name, None)
        if function is None:
            raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)}")
        ctypes.set_errno(0)
        result = int(function(*arguments))
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return result

    def prctl(self, option: int, value: int) -> int:
        """Call prctl(2) with one value and zeros."""
        zero = ctypes.c_ulong(0)
        return self.call("prctl", option, ctypes.c_ulong(value), zero, zero, zero)


def architecture() -> str:
    """Return the machine's architecture as the kernel names it."""
    return platform.machine()
