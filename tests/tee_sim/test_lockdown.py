"""What a locked-down process can no longer do, tried from inside and from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fl_protocol.codes import Code, GatewayUnavailable
from tee_sim import image
from tee_sim.launch import CHANNELS, BootOptions, environment
from tee_sim.lockdown import ACTIVE, LAYERS
from tests.support.enclave import ENCLAVE_USER, HOP_KEY, Lab, SealedImage, policy_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="lockdown is Linux only")

PROBE = """
import os, socket, subprocess, sys, mmap
from tee_sim.lockdown import Lockdown

def main(arguments):
    attempt, user, skip = arguments[3], int(arguments[4]), arguments[5].split(",")
    channel = socket.socket(fileno=int(arguments[1]))
    # Compiled before lockdown, so that only the attempt itself can fail.
    code = compile(ATTEMPTS[attempt], "attempt", "exec")
    lockdown = Lockdown(
        [channel.fileno()], int(arguments[2]), user if user >= 0 else None, skip
    )
    lockdown.conceal()
    lockdown.confine()
    channel.sendall(b"locked ")
    try:
        exec(code, {"os": os, "socket": socket, "mmap": mmap})
        channel.sendall(b"succeeded")
    except BaseException as error:
        channel.sendall(type(error).__name__.encode())
    os._exit(0)

ATTEMPTS = {
    "nothing": "pass",
    "read a file": "os.open('/etc/hostname', os.O_RDONLY)",
    "write a file": "os.open('/tmp/leak', os.O_CREAT | os.O_WRONLY)",
    "open a socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "fork": "os.fork()",
    "execute": "os.execv('/bin/true', ['true'])",
    "signal the launcher": "os.kill(os.getppid(), 0)",
    "map executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "become root": "os.setuid(0)",
}
"""
ATTEMPTS = (
    "read a file",
    "write a file",
    "open a socket",
    "fork",
    "execute",
    "signal the launcher",
    "map executable memory",
    "become root",
)


@pytest.fixture(scope="module")
def probe() -> SealedImage:
    return SealedImage(image.build("probe", {"probe.py": PROBE.encode()}))


def attempt(probe: SealedImage, what: str, *skip: str) -> tuple[bytes, int]:
    """Return what the probe said and how it ended."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-I", "-S", "-B", f"/proc/self/fd/{probe.handle}"]
    user = -1 if ENCLAVE_USER is None else ENCLAVE_USER
    arguments = [str(theirs.fileno()), str(os.getpid()), what, str(user), ",".join(skip)]
    with ours, theirs:
        process = subprocess.Popen(
            command + arguments, pass_fds=(probe.handle, theirs.fileno()), env={}
        )
        theirs.close()
        said = b""
        while part := ours.recv(100):
            said += part
        return said, process.wait(30)


@pytest.mark.parametrize("what", ATTEMPTS)
def test_forbidden_call_kills_the_enclave(probe: SealedImage, what: str) -> None:
    assert attempt(probe, what) == (b"locked ", -signal.SIGSYS)


def test_allowed_work_ends_well(probe: SealedImage) -> None:
    assert attempt(probe, "nothing") == (b"locked succeeded", 0)


@pytest.mark.parametrize("what", ["read a file", "write a file", "open a socket"])
def test_without_seccomp_the_other_layers_still_refuse(probe: SealedImage, what: str) -> None:
    said, status = attempt(probe, what, "seccomp")
    assert status == 0
    assert said in (b"locked PermissionError", b"locked OSError")


def test_without_landlock_and_seccomp_no_descriptor_is_left(probe: SealedImage) -> None:
    said, status = attempt(probe, "read a file", "seccomp", "landlock")
    assert (said, status) == (b"locked OSError", 0)


def test_without_any_layer_the_probe_can_read(probe: SealedImage) -> None:
    """The probe's attempts are real: only the layers stop them."""
    assert attempt(probe, "read a file", *LAYERS) == (b"locked succeeded", 0)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_kernel_confirms_the_confinement(lab: Lab) -> None:
    status = status_of(lab.process.pid)
    assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
    assert int(status["VmRSS"].split()[0]) < 150 * 1024
    if os.geteuid() == 0:
        assert status["Uid"].split() == [str(ENCLAVE_USER)] * 4
        assert int(status["CapEff"], 16) == 0
        # The channels for gateways, the one to the platform and what waits for them.
        held = [os.readlink(handle) for handle in Path(f"/proc/{lab.process.pid}/fd").iterdir()]
        others = [target for target in held if not target.startswith("socket:")]
        assert others == ["anon_inode:[eventpoll]"]
        assert len(held) == CHANNELS + 2


def test_every_layer_is_reported(lab: Lab) -> None:
    isolation = lab.process.facts.isolation
    assert set(isolation) == set(LAYERS)
    assert isolation["seccomp"] == isolation["landlock"] == ACTIVE


def test_layer_that_was_switched_off_is_reported_inactive(sealed_image: SealedImage) -> None:
    lab = Lab(sealed_image)
    process = sealed_image.start(
        lab.policy, options=BootOptions(ENCLAVE_USER, HOP_KEY, skip_layers=("landlock", "seccomp"))
    )
    try:
        assert process.facts.isolation["landlock"] == "inactive (switched off)"
        assert process.facts.isolation["seccomp"] == "inactive (switched off)"
        assert status_of(process.pid)["Seccomp"] == "0"
    finally:
        process.end()
        lab.close()


def read_memory(pid: int, user: int | None) -> str:
    # The shell, because the interpreter may live in a home the enclave's user cannot enter.
    result = subprocess.run(
        ["/bin/sh", "-c", f"exec 3</proc/{pid}/mem && echo read"],
        user=user,
        group=user,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    return result.stdout.strip() or result.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become the enclave's user")
def test_process_of_the_same_user_cannot_read_the_enclaves_memory(lab: Lab) -> None:
    assert read_memory(lab.process.pid, ENCLAVE_USER).endswith("Permission denied")


@pytest.mark.skipif(os.geteuid() == 0, reason="root is the exception, see the next test")
def test_launchers_user_cannot_read_the_enclaves_memory(lab: Lab) -> None:
    assert read_memory(lab.process.pid, None).endswith("Permission denied")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_can_read_the_enclaves_memory(lab: Lab) -> None:
    """What a simulated enclave cannot promise: it is no protection against the host's root."""
    assert read_memory(lab.process.pid, None) == "read"


def test_debug_enclave_says_so(sealed_image: SealedImage, lab: Lab) -> None:
    options = BootOptions(ENCLAVE_USER, HOP_KEY, debug=True)
    process = sealed_image.start(lab.policy, options=options)
    try:
        assert process.facts.debug
        assert process.facts.isolation["not_dumpable"] == "inactive (switched off)"
    finally:
        process.end()


def test_enclave_ends_when_its_last_channel_closes(sealed_image: SealedImage, lab: Lab) -> None:
    process = sealed_image.start(lab.policy)
    while not process.spent:
        process.hand_over().close()
    process.cut_off(None)
    assert process._process.wait(10) == 0
    with pytest.raises(GatewayUnavailable):
        process.hand_over()


def test_enclave_takes_nothing_of_the_environment_but_the_choice_of_kernels() -> None:
    ours = {"OPENBLAS_CORETYPE": "Haswell", "HOME": "/root", "LD_PRELOAD": "x", "PYTHONPATH": "y"}
    own = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    assert environment(ours) == {"OPENBLAS_CORETYPE": "Haswell"} | own
    assert environment({"OPENBLAS_NUM_THREADS": "8"}) == own


def test_enclave_loads_no_framework(sealed_image: SealedImage) -> None:
    """The image runs with numpy and cryptography alone in reach of its imports."""
    code = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, "/proc/self/fd/{sealed_image.handle}")
        sys.path.extend({list(sealed_image.dependencies)!r})
        import tee_sim.enclave.main
        print(sorted({{name.partition(".")[0] for name in sys.modules}}
            & {{"grpc", "torch", "flwr", "pydantic", "google", "joserfc", "asyncio"}}))
        """
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        pass_fds=(sealed_image.handle,),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_launcher_that_cannot_start_an_enclave_says_so(lab: Lab) -> None:
    broken = SealedImage(image.build("probe", {"probe.py": b"def main(arguments): pass\n"}))
    with pytest.raises(GatewayUnavailable) as caught:
        broken.start(policy_for(lab.issuer))
    assert caught.value.code == Code.ENCLAVE_UNAVAILABLE
    os.close(broken.handle)
