"""A node contributes to each model of a run once, whatever the server side does or answers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_client.config import ClientConfig
from fl_client.contributions import ContributionWitness
from fl_client.uploader import SealedUploader
from fl_protocol.codes import (
    AsynclaveError,
    Code,
    ConfigInvalid,
    EnvelopeRejected,
    RunRejected,
    StorageFailed,
    UpdateRejected,
)
from fl_protocol.ports import SystemClock
from fl_protocol.receipts import Receipt
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack
from strategies.update import digest_of
from tests.support.disk import MemoryDisk
from tests.support.sealed import client, initial, offer, open_run, trained

MODELS = [f"{number:064x}" for number in range(600)]


@pytest.fixture
def witness(tmp_path: Path) -> ContributionWitness:
    return ContributionWitness(tmp_path / "contributions")


def fresh() -> str:
    return uuid.uuid4().hex


def refused(claim: Callable[[], object]) -> bool:
    try:
        claim()
    except RunRejected as error:
        assert error.code == Code.RUN_REPEATED
        return True
    return False


def test_contributes_to_one_version_after_the_other(witness: ContributionWitness) -> None:
    for version in (0, 1, 5):
        witness.claim("run", version, MODELS[version], 1, fresh())
    witness.claim("another", 0, MODELS[0], 1, fresh())


@pytest.mark.parametrize(("version", "model"), [(3, 3), (3, 9), (2, 9), (4, 3)])
def test_refuses_a_version_or_model_it_has_contributed_to(
    witness: ContributionWitness, version: int, model: int
) -> None:
    witness.claim("run", 3, MODELS[3], 1, fresh())
    assert refused(lambda: witness.claim("run", version, MODELS[model], 1, fresh()))


def test_refuses_a_run_that_went_back_behind_a_release(witness: ContributionWitness) -> None:
    witness.claim("run", 3, MODELS[3], 1, fresh())
    witness.observe("run", 6)
    witness.observe("run", 5)
    assert refused(lambda: witness.check("run", 5, MODELS[5]))
    witness.check("run", 6, MODELS[6])


def test_remembers_across_restarts_in_small_private_files(tmp_path: Path) -> None:
    folder = tmp_path / "contributions"
    for version, model in enumerate(MODELS):
        ContributionWitness(folder).claim("run", version, model, 1, fresh())
    assert refused(lambda: ContributionWitness(folder).check("run", 599, "f" * 64))
    assert refused(lambda: ContributionWitness(folder).check("run", 600, MODELS[599]))
    (path,) = folder.glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size < 64 * 1024


def test_of_many_claims_at_once_one_succeeds(tmp_path: Path) -> None:
    def claim(_: int) -> bool:
        return refused(lambda: ContributionWitness(tmp_path).claim("run", 0, MODELS[0], 1, fresh()))

    with ThreadPoolExecutor(8) as pool:
        assert sum(not lost for lost in pool.map(claim, range(40))) == 1


def test_the_last_contribution_may_leave_again_under_its_id_only(
    witness: ContributionWitness,
) -> None:
    witness.claim("run", 3, MODELS[3], 1, "mine")
    witness.claim("run", 3, MODELS[3], 1, "mine")
    assert refused(lambda: witness.claim("run", 3, MODELS[3], 1, "other"))
    # A successor may be given it once more, by whichever id: it knows what was handed out.
    witness.claim("run", 3, MODELS[3], 2, "mine")
    assert refused(lambda: witness.claim("run", 3, MODELS[3], 2, "other"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"base":1}', b'{"base":"x","epoch":0,"models":[],"seen":0,"update":""}'],
)
def test_a_damaged_memory_is_named_and_not_forgotten(tmp_path: Path, content: bytes) -> None:
    witness = ContributionWitness(tmp_path)
    witness.claim("run", 0, MODELS[0], 1, fresh())
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=path.name):
        witness.claim("run", 1, MODELS[1], 1, fresh())


def test_without_room_nothing_is_claimed() -> None:
    disk = MemoryDisk()
    witness = ContributionWitness(Path("/node/contributions"), disk=disk)
    disk.room = 10
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        witness.claim("run", 0, MODELS[0], 1, fresh())
    disk.room = None
    witness.claim("run", 0, MODELS[0], 1, fresh())
    assert refused(lambda: witness.claim("run", 0, MODELS[0], 1, fresh()))


def test_a_run_opened_again_gets_no_second_update_of_a_node(stack: LocalStack) -> None:
    open_run(stack, "reopened").close()
    client(stack, "victim").upload(trained("reopened", 1.0))
    open_run(stack, "reopened").close()
    # Another process of the same node remembers, too.
    assert refused(lambda: client(stack, "victim").upload(trained("reopened", 1.0)))


def fetch(intake: SealedIntake, version: int) -> None:
    with intake._lock:
        intake._fetch_up_to(version)


def verified(reply: Any) -> Receipt:
    """Read a receipt whose enclave is gone, and with it whoever knows its key."""
    members: dict[str, Any] = json.loads(reply.payload)
    return Receipt(**members)


def patient(stack: LocalStack, name: str) -> SealedUploader:
    """Return a client that waits for the server to open the run again."""
    config = ClientConfig.load(stack.client_config(name))
    return SealedUploader(dataclasses.replace(config, run_patience=20.0))


def enclave_dies_after(
    uploader: SealedUploader,
    stack: LocalStack,
    answer: AsynclaveError,
    before: Callable[[], None] = lambda: None,
) -> Any:
    """Deliver submissions, then end the enclave and answer as a hostile gateway may."""
    call = uploader._session.call
    delivered: list[Any] = []

    def hostile(method: str, *arguments: Any, **options: Any) -> Any:
        reply = call(method, *arguments, **options)
        if method != "SubmitUpdate" or delivered:
            return reply
        delivered.append(reply)
        before()
        os.kill(stack.enclave_pid, signal.SIGKILL)
        raise answer

    uploader._session.call = hostile  # type: ignore[method-assign]
    return delivered


LOST_ANSWERS = [
    EnvelopeRejected(Code.ENV_EPOCH),
    EnvelopeRejected(Code.ENV_KEY_ID),
    EnvelopeRejected(Code.ENV_POLICY),
]
for_every_lost_answer = pytest.mark.parametrize(
    "answer", LOST_ANSWERS, ids=[error.code for error in LOST_ANSWERS]
)


@for_every_lost_answer
def test_an_update_lost_with_its_enclave_is_sealed_again_and_counted_once(
    stack: LocalStack, answer: AsynclaveError
) -> None:
    run_id = f"lost-{answer.code}"
    intake = open_run(stack, run_id, watch_interval=0.1)
    uploader = patient(stack, "victim")
    delivered = enclave_dies_after(uploader, stack, answer)

    uploaded = uploader.upload(trained(run_id, 1.0))

    lost = verified(delivered[0])
    assert uploaded.receipt.epoch > lost.epoch
    assert uploaded.receipt.update_id == lost.update_id
    assert uploaded.receipt.outcome == "accepted"
    # In one release with one other, whose model shows that it is there once.
    offer(intake, "1", client(stack, "bystander").upload(trained(run_id, 3.0)))
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, initial() + 2.0, rtol=1e-6)
    intake.close()


@for_every_lost_answer
def test_an_update_that_was_handed_out_is_not_counted_again_by_a_successor(
    stack: LocalStack, answer: AsynclaveError
) -> None:
    # A gateway withholds the victim's receipt, takes the release and ends the enclave, so that
    # the victim seals its update once more and a second release, beside another, holds it.
    run_id = f"withheld-{answer.code}"
    intake = open_run(stack, run_id, watch_interval=0.1)
    client(stack, "bystander").upload(trained(run_id, 3.0))
    uploader = patient(stack, "victim")
    delivered = enclave_dies_after(uploader, stack, answer, before=lambda: fetch(intake, 1))

    with pytest.raises(UpdateRejected, match="DUPLICATE_UPDATE"):
        uploader.upload(trained(run_id, 1.0))

    assert len(delivered) == 1
    assert (intake.version, intake.attested.epoch > verified(delivered[0]).epoch) == (1, True)
    # Neither does another process of the node bring it in.
    with pytest.raises((RunRejected, UpdateRejected)):
        client(stack, "victim").upload(trained(run_id, 1.0))
    intake.close()


def test_a_federation_of_k_goes_on_after_its_enclave_died(stack: LocalStack) -> None:
    intake = open_run(stack, "all-buffered", watch_interval=0.1)
    nodes = [patient(stack, name) for name in "ab"]
    nodes[0].upload(trained("all-buffered", 1.0))
    epoch = intake.attested.epoch
    os.kill(stack.enclave_pid, signal.SIGKILL)
    while intake.attested.epoch == epoch:
        SystemClock().sleep(0.05)

    for number, (node, delta) in enumerate(zip(nodes, (1.0, 3.0), strict=True)):
        node.check("all-buffered", 0, digest_of(initial()))
        assert offer(intake, str(number), node.upload(trained("all-buffered", delta))).accepted

    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, initial() + 2.0, rtol=1e-6)
    intake.close()


def test_contributes_again_to_the_last_model_in_a_newer_enclave_only(
    witness: ContributionWitness,
) -> None:
    witness.claim("run", 3, MODELS[3], 1, fresh())
    witness.observe("run", 4)
    assert refused(lambda: witness.claim("run", 3, MODELS[3], 1, fresh()))
    assert refused(lambda: witness.claim("run", 3, MODELS[9], 2, fresh()))
    assert refused(lambda: witness.claim("run", 2, MODELS[2], 2, fresh()))
    witness.claim("run", 3, MODELS[3], 2, fresh())
    assert refused(lambda: witness.claim("run", 3, MODELS[3], 2, fresh()))


def test_refuses_a_model_behind_its_last_whatever_the_enclave(witness: ContributionWitness) -> None:
    # what a platform that turned sealed state back would ask for
    witness.claim("run", 3, MODELS[3], 1, fresh())
    witness.claim("run", 5, MODELS[5], 1, fresh())
    for version in (2, 3, 4):
        assert refused(
            lambda version=version: witness.claim("run", version, MODELS[version], 2, fresh())
        )


def test_versions_merged_and_never_handed_out_do_not_bind_in_a_newer_enclave(
    witness: ContributionWitness,
) -> None:
    witness.claim("run", 3, MODELS[3], 1, fresh())
    witness.observe("run", 5)
    assert refused(lambda: witness.claim("run", 4, MODELS[4], 1, fresh()))
    witness.claim("run", 4, MODELS[4], 2, fresh())
    witness.claim("run", 5, MODELS[5], 2, fresh())
