"""An orderly end of the gateway while the enclave, or its launcher, does not answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fl_protocol.ports import LocalDisk, SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.durable.journal import Journal
from fl_server.gateway.call import admit_anyone
from fl_server.gateway.database import Database
from fl_server.gateway.enclave_link import EnclaveLink
from fl_server.gateway.registry import Registry
from fl_server.gateway.submissions import open_submissions
from fl_server.gateway.update_journal import UpdateJournal
from tee_sim.control import LauncherClient
from tee_sim.hop import KEY_BYTES, HopSigner
from tests.gateway.test_update_journal import BODY, header


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[socket.socket]:
    """A launcher that hears what it is asked and says nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "launcher"))
        listener.listen()
        listener.setblocking(False)
        yield listener


async def test_what_is_under_way_has_ended_and_stays_in_the_journal(
    silent: socket.socket, tmp_path: Path
) -> None:
    signer = HopSigner(bytes(KEY_BYTES), SystemClock(), SystemRng())
    link = EnclaveLink(LauncherClient(tmp_path / "launcher", signer))
    folder = tmp_path / "journal"
    about = header("waiting")
    envelope = pb.SubmitHeader(protected=about.encode())
    with closing(Database(str(tmp_path / "registry.sqlite"))) as database:
        registry = Registry(database)
        async with open_submissions(
            link, str(folder), LocalDisk(), SystemRng(), registry
        ) as opened:
            upload = asyncio.create_task(opened.submit(envelope, about, BODY, admit_anyone))
            # Asked for the enclave, which is after the update was kept.
            connection, _ = await asyncio.get_running_loop().sock_accept(silent)
    with connection, pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(upload, 5)
    await link.close()
    journal = Journal(folder, LocalDisk(), SystemRng())
    assert [left.update_id for left in UpdateJournal(journal).left_over] == ["waiting"]
    journal.close()
