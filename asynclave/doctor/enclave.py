"""Looks at a real enclave from outside, and lets a second one try what must be refused."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from asynclave.doctor.finding import Finding, State
from fl_protocol.codes import AsynclaveError
from fl_protocol.encoding import b64url
from fl_protocol.ports import LocalDisk, SystemRng
from fl_protocol.signatures import KEY_BYTES
from strategies.recipes.fedbuff import FedBuff
from tee_sim import image
from tee_sim.launch import CHANNELS, BootOptions, EnclaveProcess, spawn_image
from tee_sim.launcher_config import DEFAULT_ENCLAVE_USER
from tee_sim.lockdown import ACTIVE, LAYERS
from tee_sim.policy import EnclavePolicy
from tee_sim.sealed_state import SealedState

_TOPIC = "enclave"
_AS_ROOT = "start the stack as root (asynclave up, asynclave run)"
_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "locked_memory": "raise the launcher's limit of locked memory (ulimit -l unlimited)",
        "namespaces": _AS_ROOT,
        "own_user": _AS_ROOT + "; the enclave then runs as a user that owns nothing",
        "no_executable_memory": "use Linux 6.3 or newer",
        "landlock": "use Linux 5.13 or newer with landlock among its security modules",
        "seccomp": "use x86-64 or AArch64 and a kernel built with seccomp filters",
    }
)
_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "no_core_dump": "Max core file size",
        "no_processes": "Max processes",
        "no_new_files": "Max open files",
    }
)
_PROBE_SECONDS = 30.0
_WAITER = "anon_inode:[eventpoll]"


def enclave_findings() -> Iterator[Finding]:
    """Start an enclave, look at each of its layers, and end it."""
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(TemporaryDirectory(prefix="asynclave-doctor-")))
        started = time.perf_counter()
        try:
            enclave, probe = _start(state), _Probe()
            took = f"{1e3 * (time.perf_counter() - started):.0f} ms, with building the image"
        except (AsynclaveError, OSError) as error:
            yield Finding(_TOPIC, "start", State.BAD, str(error), "see the message; nothing works")
            return
        yield Finding(_TOPIC, "start", State.OK, f"started and locked down in {took}")
        stack.callback(enclave.end)
        stack.callback(probe.close)
        # What seccomp would kill, the layers below it must refuse by themselves.
        tried = probe.refusals("seccomp", "no_new_files") | probe.refusals("seccomp", "landlock")
        seen = {**_observed(enclave.pid), **tried, "seccomp": probe.is_killed()}
        for layer in LAYERS:
            yield _layer(layer, enclave.facts.isolation[layer], seen.get(layer))
        yield Finding(
            _TOPIC,
            "hardware",
            State.WEAK,
            "simulated: root on this machine reads the enclave's memory",
            "treat its evidence as a rehearsal; a real platform plugs in as TeePlatform",
        )


def _start(state: Path) -> EnclaveProcess:
    recipe = FedBuff(buffer_size=2)
    policy = EnclavePolicy(
        federation="doctor",
        recipe={"name": recipe.name, "options": recipe.options()},
        k=2,
        issuer_key=b64url(bytes(KEY_BYTES)),
    )
    handle = image.build().seal()
    try:
        return EnclaveProcess.start(
            handle,
            image.measurement_of(handle),
            image.dependency_paths(),
            0,
            policy,
            BootOptions(_user(), os.urandom(KEY_BYTES)),
            SealedState(state, LocalDisk(), SystemRng()),
        )
    finally:
        os.close(handle)


def _user() -> int | None:
    return DEFAULT_ENCLAVE_USER if os.geteuid() == 0 else None


def _layer(layer: str, reported: str, seen: bool | None) -> Finding:
    if not reported.startswith(ACTIVE):
        advice = _ADVICE.get(layer, "see this kernel's configuration")
        return Finding(_TOPIC, layer, State.WEAK, reported, advice)
    if seen is False:
        return Finding(
            _TOPIC,
            layer,
            State.BAD,
            f"reported as {reported}, but it does not hold",
            "do not use this machine for confidential runs",
        )
    found = f"{reported}, {'confirmed' if seen else 'as the enclave reports'}"
    if reported != ACTIVE:
        return Finding(_TOPIC, layer, State.WEAK, found, _ADVICE[layer])
    return Finding(_TOPIC, layer, State.OK, found)


def _observed(pid: int) -> dict[str, bool | None]:
    """Say of each layer whether the kernel confirms it; None where this user may not look."""
    process = Path(f"/proc/{pid}")
    status = _fields((process / "status").read_text(), ":")
    limits = (process / "limits").read_text()
    user = int(status["Uid"].split()[0])
    owner = (process / "environ").stat().st_uid
    seen: dict[str, bool | None] = {
        "no_new_privileges": status["NoNewPrivs"] == "1",
        "locked_memory": int(status["VmLck"].split()[0]) > 0,
        "own_user": user != os.geteuid(),
        # The kernel gives the files of a process whose memory is hidden to root.
        "not_dumpable": owner == 0 if user else None,
        **{layer: _is_zero(limits, name) for layer, name in _LIMITS.items()},
    }
    with contextlib.suppress(PermissionError):
        held = [os.readlink(handle) for handle in (process / "fd").iterdir()]
        # Sockets for gateways, one to the platform, and what waits for them.
        sockets = [target for target in held if target.startswith("socket:")]
        others = [target for target in held if target not in sockets]
        seen["closed_files"] = (len(sockets), others) == (CHANNELS + 1, [_WAITER])
        seen["namespaces"] = all(
            os.readlink(process / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}")
            for kind in ("net", "ipc", "uts")
        )
    return seen


def _fields(text: str, separator: str) -> dict[str, str]:
    parts = (line.partition(separator) for line in text.splitlines())
    return {name: value.strip() for name, _, value in parts}


def _is_zero(limits: str, name: str) -> bool:
    (line,) = (line for line in limits.splitlines() if line.startswith(name))
    return line.removeprefix(name).split()[:2] == ["0", "0"]


class _Probe:
    """The image that tries what must be refused."""

    def __init__(self) -> None:
        source = Path(__file__).with_name("probe.py").read_bytes()
        self._image = image.build("probe", {"probe.py": source}).seal()

    def close(self) -> None:
        os.close(self._image)

    def refusals(self, *skip: str) -> dict[str, bool | None]:
        """Return of each layer tried whether it refused, without the layers named."""
        said, _ = self._run(skip)
        return {name: word == "refused" for name, word in map(str.split, said.splitlines())}

    def is_killed(self) -> bool:
        """Say whether the seccomp filter ends the probe at its first attempt."""
        said, status = self._run(())
        return (said, status) == ("", -signal.SIGSYS)

    def _run(self, skip: tuple[str, ...]) -> tuple[str, int]:
        user = _user()
        ours, theirs = socket.socketpair()
        vault, vault_inside = socket.socketpair()
        ours.settimeout(_PROBE_SECONDS)
        with ours, vault:
            with theirs, vault_inside:
                arguments = [str(-1 if user is None else user), ",".join(skip)]
                process = spawn_image(self._image, [theirs], vault_inside, arguments)
            with ours.makefile("r", encoding="ascii") as answers:
                said = answers.read()
            return said, process.wait(_PROBE_SECONDS)
