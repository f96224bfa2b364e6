"""Nobody learns anything of a release before it is remembered and handed out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fl_protocol.codes import Code
from fl_protocol.receipts import Release, read_record
from strategies.reject import Reject
from strategies.update import digest_of
from tee_sim.channel import ChannelClosed
from tests.support.enclave import INITIAL, LAYOUT, RECIPE, Lab, SealedImage, described, signed_of
from tests.support.processes import wait_until

MERGED = INITIAL + np.float32(2.0)
GUESS = digest_of(MERGED)


@pytest.fixture
def merged(lab: Lab) -> Lab:
    """An enclave that has made version 1, which is easily guessed."""
    lab.merge_with(1.0, 3.0)
    return lab


def asked_to_join(lab: Lab, params: np.ndarray, version: int) -> dict[str, Any]:
    header = {
        "op": "OPEN_RUN",
        "run_id": lab.run_id,
        "version": version,
        "layout_json": LAYOUT.to_json(),
        "recipe_json": json.dumps(described(RECIPE)),
        "join": True,
    }
    return lab.ask(header, params.tobytes())


def records_of(lab: Lab) -> list[Any]:
    reply = lab.ask({"op": "GET_RECORDS", "from_seq": 0})
    return [read_record(signed_of(record)) for record in reply["records"]]


def test_its_digest_is_in_no_reply(merged: Lab) -> None:
    assert not any(getattr(record, "model_digest", "") == GUESS for record in records_of(merged))
    replies = [asked_to_join(merged, INITIAL, 0), merged.status(), merged.send(merged.member("x"))]
    assert all(reply["ok"] for reply in replies)
    assert not any(GUESS in str(reply) for reply in replies)
    assert merged.release(1)[0].model_digest == GUESS
    newest = [record for record in records_of(merged) if isinstance(record, Release)][-1]
    assert (newest.run_id, newest.model_digest) == (merged.run_id, GUESS)


def test_guesses_of_it_are_not_answered(merged: Lab) -> None:
    member = merged.member("curious")

    def guessed(digest: str) -> str | None:
        return merged.send(member, base_version=1, base_model_digest=digest).get("code")

    assert guessed(GUESS) == guessed("0" * 64) == Reject.UNKNOWN_BASE_VERSION
    for params in (MERGED, INITIAL):
        assert asked_to_join(merged, params, 1)["code"] == Code.RUN_REGRESSED
    merged.release(1)
    assert guessed("0" * 64) == Code.ENV_MODEL_DIGEST
    assert guessed(GUESS) is None
    assert asked_to_join(merged, MERGED, 1)["ok"]


def test_it_dies_with_its_enclave_when_another_run_is_opened(sealed_image: SealedImage) -> None:
    lab = Lab(sealed_image)
    try:
        lab.open_run()
        lab.merge_with(1.0, 3.0)
        with pytest.raises(ChannelClosed):
            lab.open_run(run_id="another")
        wait_until(lambda: not lab.process.alive())
        assert lab.process.condition() == "ended with status 0"
    finally:
        lab.close()


def test_it_does_not_die_for_a_run_that_cannot_be_opened(merged: Lab) -> None:
    assert merged.open_run(run_id="no name\n")["code"] == Code.RUN_MANIFEST
    assert merged.release(1)[0].version == 1


def test_it_is_kept_until_it_was_fetched(sealed_image: SealedImage) -> None:
    lab = Lab(sealed_image, changes={"max_staleness": 100})
    try:
        lab.open_run()
        for _ in range(65):
            lab.merge_with(1.0, 1.0)
        assert (lab.status()["version"], lab.status()["pending"]) == (64, 2)
        late = lab.member("late")
        assert lab.send(late)["code"] == Code.OVERLOADED
        assert lab.release(1)[0].version == 1
        assert lab.send(late)["ok"]
        assert (lab.status()["version"], lab.status()["pending"]) == (65, 1)
        assert lab.release(2)[0].version == 2
    finally:
        lab.close()


def test_an_enclave_that_withholds_nothing_takes_another_run(merged: Lab) -> None:
    merged.release(1)
    assert merged.send(merged.member("waiting"))["ok"]
    assert merged.open_run(run_id=f"{merged.run_id}-next")["ok"]
