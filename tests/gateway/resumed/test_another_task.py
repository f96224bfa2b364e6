"""A server that goes on with a run under another configuration than waiting updates had."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType

from asynclave.verification.audit import audit
from fl_client.mods import sealed_uploads
from fl_protocol.codes import StorageFailed
from fl_server.stack import LocalStack
from fl_server.strategy import FedBuff, NoProgress
from fl_sim.grid import VirtualGrid
from tests.gateway.resumed.support import abandon, fill_buffer, server
from tests.support.federation import Mod, client_app, initial_arrays, partition, virtual_grid
from tests.support.processes import kill
from tests.support.sealed import K, client, trained

RUN = "kept"
FIRST, SECOND = "1" * 64, "2" * 64


def test_another_task_is_refused_while_updates_wait(stack: LocalStack, tmp_path: Path) -> None:
    intake = server(stack, tmp_path / "run")
    intake.begin_task(FIRST)
    client(stack, "node-0").upload(trained(RUN, 1.0))
    abandon(intake)
    again = server(stack, tmp_path / "run")
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*1 updates.*--run-config"):
        again.begin_task(SECOND)
    again.begin_task(FIRST)
    again.close()


def test_what_a_lost_enclave_had_buffered_waits_for_its_nodes(
    stack: LocalStack, tmp_path: Path
) -> None:
    intake = server(stack, tmp_path / "run")
    intake.begin_task(FIRST)
    client(stack, "node-0").upload(trained(RUN, 1.0))
    intake.close()
    kill(stack.enclave_pid)
    again = server(stack, tmp_path / "run")
    with pytest.raises(StorageFailed, match="STATE_MISMATCH"):
        again.begin_task(SECOND)
    again.close()


def test_another_task_is_begun_when_nothing_waits(stack: LocalStack, tmp_path: Path) -> None:
    intake = server(stack, tmp_path / "run")
    intake.begin_task(FIRST)
    fill_buffer(stack, intake)
    abandon(intake)
    again = server(stack, tmp_path / "run")
    again.begin_task(SECOND)
    client(stack, "node-0").upload(trained(RUN, 1.0, version=1, base=again.params))
    abandon(again)
    last = server(stack, tmp_path / "run")
    with pytest.raises(StorageFailed, match="STATE_MISMATCH"):
        last.begin_task(FIRST)
    last.begin_task(SECOND)
    last.close()


def test_a_task_may_change_while_its_server_goes_on(stack: LocalStack, tmp_path: Path) -> None:
    # A strategy whose tasks differ by version: what does not fit is refused update by update.
    intake = server(stack, tmp_path / "run")
    intake.begin_task(FIRST)
    client(stack, "node-0").upload(trained(RUN, 1.0))
    intake.begin_task(SECOND)
    intake.close()


def test_nobody_is_asked_to_train_for_another_task(stack: LocalStack, tmp_path: Path) -> None:
    folder, asked = tmp_path / "run", []

    def observed(message: Message, context: Context, call_next: Mod) -> Message:
        asked.append(message.metadata.message_type)
        return call_next(message, context)

    def fails(message: Message, context: Context, call_next: Mod) -> Message:
        if partition(context) > 0:
            raise RuntimeError("not today")
        return call_next(message, context)

    def grid(*mods: Mod) -> VirtualGrid:
        bundles = {
            number: {"asynclave-config": str(stack.client_config(f"digit-{number}"))}
            for number in range(K)
        }
        app = client_app(mods=[*mods, sealed_uploads()])
        return virtual_grid(K, app, node_configs=bundles)

    def start(grid: VirtualGrid, lr: float) -> None:
        strategy = FedBuff(
            buffer_size=K,
            staleness_exponent=0.0,
            gateway=stack.server_config(),
            run_name=RUN,
            state_folder=folder,
            fraction_evaluate=0.0,
        )
        config = ConfigRecord({"lr": lr})
        strategy.start(grid, initial_arrays(), num_rounds=1, timeout=60.0, train_config=config)

    with pytest.raises(NoProgress):
        start(grid(fails), lr=0.1)
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*1 updates"):
        start(grid(observed), lr=0.2)
    assert asked == []
    start(grid(observed), lr=0.1)
    assert MessageType.TRAIN in asked
    found = audit(folder)
    assert (found.flaw, found.version) == (None, 1)
