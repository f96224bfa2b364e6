"""Starting one enclave process from the sealed image and learning its keys."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fl_protocol.codes import Code, GatewayUnavailable
from fl_protocol.encoding import b64url, b64url_decode
from tee_sim.channel import STALL_SECONDS, Channel, ChannelClosed
from tee_sim.ending import Ending
from tee_sim.evidence import EnclaveKeys
from tee_sim.platform import RunningEnclave
from tee_sim.policy import EnclavePolicy
from tee_sim.sealed_state import SealedState

# Nothing can give a locked-down enclave a descriptor, so it begins with one for each time that a
# gateway may attach.
CHANNELS = 256

# With other kernels an enclave would round otherwise than the process beside it, and a run not have
# the same model with and without the trust path.
_KERNEL_CHOICES = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"),
    *("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
)

# Up to this many seconds from spawn to the enclave's first word.
_BOOT_SECONDS = 60.0
_SOCKET_BYTES = 4 << 20
# struct timeval: seconds and microseconds.
_TIMEVAL = struct.Struct("@ll")


@dataclass(frozen=True)
class BootOptions:
    """How to confine an enclave.

    Parameters
    ----------
    user : int, optional
        User id to run as; None keeps the launcher's.
    hop_key : bytes
        Key that signs the requests the enclave answers, 32 bytes.
    skip_layers : tuple of str
        Layers of `lockdown.LAYERS` to leave out.
    debug : bool
        Leave its memory readable; evidence says so.
    """

    user: int | None
    hop_key: bytes
    skip_layers: tuple[str, ...] = ()
    debug: bool = False


class EnclaveProcess:
    """One running enclave and the sockets to it, each of which has one holder.

    Call `start` from a thread that lives as long as the launcher: the enclave is killed when the
    thread that started it ends.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        streams: Sequence[socket.socket],
        keeper: threading.Thread,
        facts: RunningEnclave,
    ) -> None:
        self._process, self._keeper = process, keeper
        self._unused = deque(streams)
        self._held: dict[Hashable, socket.socket] = {}
        self.facts = facts

    @classmethod
    def start(
        cls,
        image: int,
        measurement: str,
        dependencies: Sequence[str],
        epoch: int,
        policy: EnclavePolicy,
        options: BootOptions,
        state: SealedState,
    ) -> EnclaveProcess:
        """Spawn an enclave from a sealed image and wait for its keys.

        Parameters
        ----------
        image : int
            Descriptor of the sealed image.
        measurement : str
            Its hexadecimal SHA-384.
        dependencies : sequence of str
            Folders to import dependencies from.
        epoch : int
            Boot count.
        policy : EnclavePolicy
            What to enforce.
        options : BootOptions
            How to confine it.
        state : SealedState
            Where it keeps what outlives it.

        Raises
        ------
        GatewayUnavailable
            ``ENCLAVE_UNAVAILABLE``: it did not come up.
        ConfigInvalid
            The sealing root is damaged.
        """
        # First, because it may fail: then no enclave waits for it.
        sealing_key = state.key_for(measurement)
        ours, theirs = zip(*(socket.socketpair() for _ in range(CHANNELS)), strict=True)
        for end in (*ours, *theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        for end in theirs:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                end.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(STALL_SECONDS, 0))
        vault, vault_inside = socket.socketpair()
        process = spawn_image(image, theirs, vault_inside, dependencies)
        _close(*theirs, vault_inside)
        keeper = state.serve(vault)
        skip = {*options.skip_layers, *(("not_dumpable",) if options.debug else ())}
        boot: dict[str, Any] = {
            "epoch": epoch,
            "policy": policy.to_members(),
            "user": -1 if options.user is None else options.user,
            "skip": sorted(skip),
            "hop_key": options.hop_key.hex(),
            "sealing_key": b64url(sealing_key),
        }
        try:
            reply = _handshake(ours[0], boot)
        except GatewayUnavailable:
            _end(process, keeper)
            _close(*ours)
            raise
        keys = EnclaveKeys(b64url_decode(reply["hpke_key"]), b64url_decode(reply["receipt_key"]))
        facts = RunningEnclave(epoch, measurement, keys, policy, reply["isolation"], options.debug)
        return cls(process, ours, keeper, facts)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def spent(self) -> bool:
        """Whether it has no further socket to give away."""
        return not self._unused

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.poll() is None

    def condition(self) -> str:
        """Say in words whether it runs, and how it ended if not."""
        status = self._process.poll()
        if status is None:
            return "replaced while it ran"
        if status == Ending.CLOCK_SET_BACK:
            return "ended because this machine's clock was ahead and was set back"
        return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def hand_over(self, holder: Hashable = None) -> socket.socket:
        """Give a socket away; the one that the same holder had before is cut off.

        The receiver closes it. The enclave keeps its keys, its buffer and its chain; a request
        that is cut off changes nothing, or is answered alike when it is repeated.

        Parameters
        ----------
        holder : hashable
            Whoever the socket is for.

        Raises
        ------
        GatewayUnavailable
            ``ENCLAVE_UNAVAILABLE``: none is left.
        """
        if self.spent:
            raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE)
        self.cut_off(holder)
        self._held[holder] = self._unused.popleft()
        return self._held[holder].dup()

    def cut_off(self, holder: Hashable) -> None:
        """Take a holder's socket back, if it has one: the enclave waits for it no longer."""
        held = self._held.pop(holder, None)
        if held is not None:
            with suppress(OSError):
                # Closing would not do: its receiver has the socket as well.
                held.shutdown(socket.SHUT_RDWR)
            held.close()

    def end(self) -> None:
        """Kill the process: its keys and buffered updates are gone with it."""
        for holder in tuple(self._held):
            self.cut_off(holder)
        _close(*self._unused)
        self._unused.clear()
        _end(self._process, self._keeper)


def spawn_image(
    image: int, channels: Sequence[socket.socket], vault: socket.socket, arguments: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Run a sealed image as a process that holds nothing but one end of each of these sockets.

    Its arguments are the channels' descriptors, joined by commas, this process's id, the vault's
    descriptor, and `arguments`, which are added to its import path.
    """
    descriptors = [channel.fileno() for channel in channels]
    own = [",".join(map(str, descriptors)), str(os.getpid()), str(vault.fileno())]
    # Isolated, without site-packages hooks and without writing bytecode: only the image runs.
    command = [sys.executable, "-I", "-S", "-B", f"/proc/self/fd/{image}", *own, *arguments]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(image, *descriptors, vault.fileno()),
        cwd="/",
        env=environment(os.environ),
        start_new_session=True,
    )


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return an enclave's environment: nothing of ours but the choice of arithmetic kernels."""
    kernels = {name: ours[name] for name in _KERNEL_CHOICES if name in ours}
    # A second BLAS thread could not be started after lockdown.
    return kernels | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


def _handshake(stream: socket.socket, boot: dict[str, Any]) -> dict[str, Any]:
    stream.settimeout(_BOOT_SECONDS)
    channel = Channel(stream)
    try:
        channel.send(boot)
        reply = channel.receive().header
    except ChannelClosed as error:
        raise GatewayUnavailable(
            Code.ENCLAVE_UNAVAILABLE, "The enclave ended before it was ready."
        ) from error
    if not reply["ok"]:
        raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE, reply["sentence"])
    stream.settimeout(None)
    return reply


def _end(process: subprocess.Popen[bytes], keeper: threading.Thread) -> None:
    process.kill()
    process.wait()
    # What it has sent last is stored before a successor asks.
    keeper.join()


def _close(*streams: socket.socket) -> None:
    for stream in streams:
        stream.close()
