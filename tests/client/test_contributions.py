"""A node contributes to each model of a run once, whatever the server side does or answers."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fl_client.config import ClientConfig
from fl_client.contributions import ContributionWitness
from fl_client.uploader import SealedUploader
from fl_protocol.codes import (
    AsynclaveError,
    Code,
    ConfigInvalid,
    EnvelopeRejected,
    GatewayUnavailable,
    RunRejected,
)
from fl_server.stack import LocalStack
from tests.support.sealed import client, initial, open_run, trained

MODELS = [f"{number:064x}" for number in range(600)]


@pytest.fixture
def witness(tmp_path: Path) -> ContributionWitness:
    return ContributionWitness(tmp_path / "contributions")


def refused(claim: Callable[[], object]) -> bool:
    try:
        claim()
    except RunRejected as error:
        assert error.code == Code.RUN_REPEATED
        return True
    return False


def test_contributes_to_one_version_after_the_other(witness: ContributionWitness) -> None:
    for version in (0, 1, 5):
        witness.claim("run", version, MODELS[version], 1)
    witness.claim("another", 0, MODELS[0], 1)


@pytest.mark.parametrize(("version", "model"), [(3, 3), (3, 9), (2, 9), (4, 3)])
def test_refuses_a_version_or_model_it_has_contributed_to(
    witness: ContributionWitness, version: int, model: int
) -> None:
    witness.claim("run", 3, MODELS[3], 1)
    assert refused(lambda: witness.claim("run", version, MODELS[model], 1))


def test_refuses_a_run_that_went_back_behind_a_release(witness: ContributionWitness) -> None:
    witness.claim("run", 3, MODELS[3], 1)
    witness.observe("run", 6)
    witness.observe("run", 5)
    assert refused(lambda: witness.check("run", 5, MODELS[5]))
    witness.check("run", 6, MODELS[6])


def test_remembers_across_restarts_in_small_private_files(tmp_path: Path) -> None:
    folder = tmp_path / "contributions"
    for version, model in enumerate(MODELS):
        ContributionWitness(folder).claim("run", version, model, 1)
    assert refused(lambda: ContributionWitness(folder).check("run", 599, "f" * 64))
    assert refused(lambda: ContributionWitness(folder).check("run", 600, MODELS[599]))
    (path,) = folder.glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size < 64 * 1024


def test_of_many_claims_at_once_one_succeeds(tmp_path: Path) -> None:
    def claim(_: int) -> bool:
        return refused(lambda: ContributionWitness(tmp_path).claim("run", 0, MODELS[0], 1))

    with ThreadPoolExecutor(8) as pool:
        assert sum(not lost for lost in pool.map(claim, range(40))) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"base":1}', b'{"base":"x","epoch":0,"models":[],"seen":0}']
)
def test_a_damaged_memory_is_named_and_not_forgotten(tmp_path: Path, content: bytes) -> None:
    witness = ContributionWitness(tmp_path)
    witness.claim("run", 0, MODELS[0], 1)
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=path.name):
        witness.claim("run", 1, MODELS[1], 1)


def test_a_run_opened_again_gets_no_second_update_of_a_node(stack: LocalStack) -> None:
    open_run(stack, "reopened").close()
    client(stack, "victim").upload(trained("reopened", 1.0))
    open_run(stack, "reopened").close()
    # Another process of the same node remembers, too.
    assert refused(lambda: client(stack, "victim").upload(trained("reopened", 1.0)))


def enclave_dies_after(uploader: SealedUploader, stack: LocalStack, answer: AsynclaveError) -> Any:
    """Deliver submissions, then end the enclave and answer as a hostile gateway may."""
    call = uploader._session.call
    delivered: list[Any] = []

    def hostile(method: str, *arguments: Any, **options: Any) -> Any:
        reply = call(method, *arguments, **options)
        if method != "SubmitUpdate" or delivered:
            return reply
        delivered.append(reply)
        os.kill(stack.enclave_pid, signal.SIGKILL)
        raise answer

    uploader._session.call = hostile  # type: ignore[method-assign]
    return delivered


@pytest.mark.parametrize(
    "answer",
    [
        EnvelopeRejected(Code.ENV_EPOCH),
        EnvelopeRejected(Code.ENV_KEY_ID),
        EnvelopeRejected(Code.ENV_POLICY),
        GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE),
    ],
    ids=lambda error: error.code,
)
def test_an_update_whose_receipt_was_withheld_is_never_sealed_again(
    stack: LocalStack, answer: AsynclaveError
) -> None:
    run_id = f"withheld-{answer.code}"
    open_run(stack, run_id).close()
    client(stack, "bystander").upload(trained(run_id, 3.0))
    uploader = client(stack, "victim")
    delivered = enclave_dies_after(uploader, stack, answer)
    with pytest.raises(type(answer), match=answer.code):
        uploader.upload(trained(run_id, 1.0))
    assert len(delivered) == 1, "the enclave has released the update"
    open_run(stack, run_id).close()
    assert refused(lambda: uploader.upload(trained(run_id, 1.0)))
    assert refused(lambda: client(stack, "victim").upload(trained(run_id, 1.0)))


def test_a_bundle_can_ask_to_repeat_the_last_contribution_to_a_newer_enclave(
    tmp_path: Path,
) -> None:
    witness = ContributionWitness(tmp_path, repeat_after_restart=True)
    witness.claim("run", 3, MODELS[3], 1)
    witness.observe("run", 4)
    assert refused(lambda: witness.claim("run", 3, MODELS[3], 1))
    assert refused(lambda: witness.claim("run", 3, MODELS[9], 2))
    assert refused(lambda: witness.claim("run", 2, MODELS[2], 2))
    witness.claim("run", 3, MODELS[3], 2)
    assert refused(lambda: witness.claim("run", 3, MODELS[3], 2))


def test_such_a_bundle_seals_again_what_a_replaced_enclave_had_received(stack: LocalStack) -> None:
    intake = open_run(stack, "again", watch_interval=0.1)
    config = ClientConfig.load(stack.client_config("trusting"))
    uploader = SealedUploader(
        dataclasses.replace(config, repeat_after_restart=True, run_patience=10.0)
    )
    delivered = enclave_dies_after(uploader, stack, EnvelopeRejected(Code.ENV_EPOCH))
    uploaded = uploader.upload(trained("again", 1.0, base=initial()))
    assert uploaded.signed.payload != delivered[0].payload
    assert uploaded.receipt.outcome == "accepted"
    intake.close()
