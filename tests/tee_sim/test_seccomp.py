"""The filter program, run by a small interpreter for architectures this machine is not."""

from __future__ import annotations

import struct

import pytest

from tee_sim.seccomp import compile_filter
from tee_sim.syscalls import AARCH64, ENCLAVE_CALLS, X86_64

ALLOW, KILL = 0x7FFF0000, 0x80000000
AUDIT = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
READ_WRITE, READ_EXECUTE = 3, 5


def verdict(program: bytes, audit_arch: int, number: int, third: int = 0) -> int:
    data = struct.pack("=iIQ6Q", number, audit_arch, 0, 0, 0, third, 0, 0, 0)
    code = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        operation, yes, no, operand = code[at]
        at += 1
        if operation == 0x20:
            (loaded,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x15:
            at += yes if loaded == operand else no
        elif operation == 0x45:
            at += yes if loaded & operand else no
        else:
            assert operation == 0x06
            return int(operand)


@pytest.mark.parametrize("machine", [X86_64, AARCH64])
class TestFilter:
    def test_allows_exactly_the_listed_calls(self, machine: str) -> None:
        calls = ENCLAVE_CALLS[machine]
        program = compile_filter(machine, calls)
        allowed = {n for n in range(600) if verdict(program, AUDIT[machine], n) == ALLOW}
        assert allowed == set(calls.values())

    def test_refuses_executable_mappings(self, machine: str) -> None:
        calls = ENCLAVE_CALLS[machine]
        program = compile_filter(machine, calls)
        for name in ("mmap", "mprotect"):
            number = calls[name]
            assert verdict(program, AUDIT[machine], number, READ_WRITE) == ALLOW
            assert verdict(program, AUDIT[machine], number, READ_EXECUTE) == KILL

    def test_refuses_the_numbers_of_another_architecture(self, machine: str) -> None:
        program = compile_filter(machine, ENCLAVE_CALLS[machine])
        for number in ENCLAVE_CALLS[machine].values():
            assert verdict(program, 0x40000003, number) == KILL

    def test_lists_no_call_that_reaches_the_outside(self, machine: str) -> None:
        reaching = {"open", "openat", "socket", "connect", "execve", "fork", "clone", "ptrace"}
        reaching |= {"recvmsg", "sendmsg", "process_vm_readv", "kill", "ioctl", "dup", "prctl"}
        assert reaching.isdisjoint(ENCLAVE_CALLS[machine])


def test_refuses_the_x32_numbers() -> None:
    program = compile_filter(X86_64, ENCLAVE_CALLS[X86_64])
    assert verdict(program, AUDIT[X86_64], 0x40000000 + 9) == KILL
