"""A seccomp filter that ends the process on any system call outside an allow-list."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping

from tee_sim.syscalls import (
    AARCH64,
    ENCLAVE_CALLS,
    PR_SET_SECCOMP,
    X86_64,
    Libc,
    architecture,
)

# linux/audit.h, linux/seccomp.h and linux/bpf_common.h
_AUDIT_ARCH = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
_MODE_FILTER = 2
_KILL_PROCESS = 0x80000000
_ALLOW = 0x7FFF0000
_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_THIRD_ARGUMENT = 0, 4, 32
_PROT_EXEC = 4
# These two could turn data into code, so their protection argument is looked at.
_NEVER_EXECUTABLE = ("mmap", "mprotect")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def compile_filter(machine: str, calls: Mapping[str, int]) -> bytes:
    """Assemble the classic-BPF program.

    Parameters
    ----------
    machine : str
        "x86_64" or "aarch64".
    calls : Mapping of str to int
        Allowed system calls; executable mappings are refused even where mmap is allowed.

    Returns
    -------
    bytes
        Eight bytes per instruction.
    """
    watched = [calls[name] for name in _NEVER_EXECUTABLE if name in calls]
    plain = [number for name, number in calls.items() if name not in _NEVER_EXECUTABLE]
    tests = len(watched) + len(plain)
    # Layout: 3 of preamble, the tests, kill, allow, then the look at the third argument.
    kill, allow, check = 3 + tests, 4 + tests, 5 + tests
    program = [
        (_LOAD_WORD, 0, 0, _OFFSET_ARCH),
        (_JUMP_EQUAL, 0, kill - 2, _AUDIT_ARCH[machine]),
        (_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
    ]
    for target, numbers in ((check, watched), (allow, plain)):
        for number in numbers:
            program.append((_JUMP_EQUAL, target - len(program) - 1, 0, number))
    program += [
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD_WORD, 0, 0, _OFFSET_THIRD_ARGUMENT),
        (_JUMP_ANY_BIT, 0, 1, _PROT_EXEC),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def install(libc: Libc) -> None:
    """Confine this process for good; needs no-new-privileges.

    Raises
    ------
    OSError
        The kernel or the architecture offers no filter.
    """
    machine = architecture()
    if machine not in ENCLAVE_CALLS:
        raise OSError(errno.ENOSYS, f"no allow-list for {machine}")
    code = compile_filter(machine, ENCLAVE_CALLS[machine])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(buffer))
    libc.call("prctl", PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(program), 0, 0)
