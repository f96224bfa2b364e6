"""The enclave process: warm up, hide, make keys, lock down, announce itself, serve until told off.

Started by the launcher as ``python IMAGE SOCKET_FDS LAUNCHER_PID VAULT_FD DEPENDENCY_PATH...``; the
first frame on the first socket tells the epoch, the policy, the sealing key and how to lock down.
The sockets go to gateways, of which several may be there at once: their requests are answered one
after the other. The vault's goes to the platform.
"""

from __future__ import annotations

import os
import select
import socket
import warnings
from collections.abc import Sequence

from fl_protocol.codes import AsynclaveError
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.ports import SystemClock, SystemRng
from tee_sim.allocator import keep_freed_memory
from tee_sim.channel import STALL_SECONDS, Channel, ChannelClosed
from tee_sim.enclave.memory import PlatformVault, ReleaseMemory
from tee_sim.enclave.rehearsal import rehearse
from tee_sim.enclave.service import EnclaveService, Keys
from tee_sim.ending import EnclaveSpent, Ending
from tee_sim.hop import HopVerifier
from tee_sim.lockdown import Lockdown
from tee_sim.policy import EnclavePolicy


def main(arguments: Sequence[str]) -> None:
    """Run the enclave; never returns.

    Parameters
    ----------
    arguments : sequence of str
        Archive path, numbers of the channels' descriptors, process id of the launcher, number of
        the vault's descriptor, paths of the dependencies.
    """
    keep_freed_memory()
    # Showing a warning reads source files, which ends a locked-down process.
    warnings.simplefilter("ignore")
    numbers, parent, vault_number = arguments[1], int(arguments[2]), int(arguments[3])
    streams = [socket.socket(fileno=int(number)) for number in numbers.split(",")]
    vault = socket.socket(fileno=vault_number)
    try:
        # Made before lockdown, which allows no new descriptor and, by that limit, no poll(2).
        with select.epoll() as waiting:
            for stream in streams:
                waiting.register(stream, select.EPOLLIN)
            kept = [waiting.fileno(), *(stream.fileno() for stream in (*streams, vault))]
            service = _boot(Channel(streams[0]), Channel(vault), kept, parent)
            _serve(service, streams, waiting)
    except EnclaveSpent as spent:
        os._exit(spent.ending)
    except BaseException:
        # A traceback would read source files and could show content.
        os._exit(Ending.FAILED)
    os._exit(Ending.DONE)


def _serve(
    service: EnclaveService, streams: Sequence[socket.socket], waiting: select.epoll
) -> None:
    """Answer one request of each gateway that has one, in turn, until all have closed."""
    served = {stream.fileno(): stream for stream in streams}
    while served:
        for number, _ in waiting.poll():
            # Whoever trickles bytes must not keep the enclave from the others.
            channel = Channel(served[number], STALL_SECONDS)
            try:
                reply = service.answer(channel.receive())
                channel.send(reply.header, reply.body)
            except ChannelClosed:
                # Closed by its gateway, or stuck in the middle of a frame.
                served.pop(number).close()


def _boot(
    channel: Channel, vault: Channel, descriptors: Sequence[int], parent: int
) -> EnclaveService:
    boot = channel.receive().header
    try:
        policy = EnclavePolicy.from_members(boot["policy"])
    except AsynclaveError as error:
        channel.send({"ok": False, "sentence": error.sentence})
        raise
    rehearse()
    user = boot["user"]
    lockdown = Lockdown(descriptors, parent, user if user >= 0 else None, boot["skip"])
    lockdown.conceal()
    keys = Keys()
    report = lockdown.confine()
    public = keys.public()
    channel.send(
        {
            "ok": True,
            "hpke_key": b64url(public.hpke),
            "receipt_key": b64url(public.receipt),
            "isolation": report,
        }
    )
    hop = HopVerifier(bytes.fromhex(boot["hop_key"]), SystemClock())
    memory = ReleaseMemory(PlatformVault(vault), b64url_decode(boot["sealing_key"]), SystemRng())
    return EnclaveService(boot["epoch"], policy, keys, SystemClock(), hop, memory)
