"""What a successor knows of the releases its predecessors handed out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code
from fl_protocol.ports import LocalDisk, SystemRng
from fl_protocol.receipts import GENESIS, Opening, record_digest, verify_opening
from tee_sim.sealed_state import SealedState
from tests.support.enclave import EPOCH, INITIAL, Lab, SealedImage, fresh_run, signed_of

_epochs = count(EPOCH)


class Epochs:
    """One enclave after the other, of the same policy, members and run."""

    def __init__(self, image: SealedImage) -> None:
        self._image, self._issuer, self._run = image, Ed25519PrivateKey.generate(), fresh_run()
        self._labs: list[Lab] = []

    def next(self) -> Lab:
        """End the present enclave and start its successor."""
        self.close()
        lab = Lab(self._image, self._issuer, epoch=next(_epochs), run_id=self._run)
        self._labs.append(lab)
        return lab

    def close(self) -> None:
        for lab in self._labs:
            lab.close()
        self._labs.clear()


@pytest.fixture
def epochs(sealed_image: SealedImage) -> Iterator[Epochs]:
    epochs = Epochs(sealed_image)
    yield epochs
    epochs.close()


def test_successor_goes_on_from_the_newest_release_handed_out(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    first.merge_with(1.0, 3.0)
    record, params = first.release(1)

    second = epochs.next()
    assert second.open_run(version=1, params=params.tobytes())["ok"]
    second.merge_with(5.0, 7.0, base_version=1, base_model_digest=record.model_digest)

    np.testing.assert_allclose(second.release(2)[1], INITIAL + 8, rtol=1e-6)


def test_opening_names_the_newest_release_that_was_handed_out(epochs: Epochs) -> None:
    first = epochs.next()
    assert opening(first, first.open_run()).continues == GENESIS
    first.merge_with(1.0, 3.0)
    ask = {"op": "GET_RELEASE", "run_id": first.run_id, "version": 1}
    reply, params = first.ask_all(first.signer.sign(ask))

    second = epochs.next()
    reopened = second.open_run(version=1, params=params)
    assert opening(second, reopened).continues == record_digest(signed_of(reply))


def opening(lab: Lab, reply: dict[str, Any]) -> Opening:
    return verify_opening(signed_of(reply), lab.keys.receipt)


def test_successor_counts_no_contribution_of_a_release_again(epochs: Epochs) -> None:
    # the old attack: withhold the receipt, take the release, end the enclave
    first = epochs.next()
    first.open_run()
    victim = first.member("victim")
    assert first.send(victim)["ok"]
    first.merge_with(3.0)
    params = first.release(1)[1]

    second = epochs.next()
    second.open_run(version=1, params=params.tobytes())

    assert second.send(victim)["code"] == "DUPLICATE_UPDATE"
    assert second.status()["pending"] == 0


def test_update_under_way_from_an_older_model_counts_with_the_successor(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    first.merge_with(1.0, 3.0)
    params = first.release(1)[1]

    second = epochs.next()
    second.open_run(version=1, params=params.tobytes())

    assert second.receipt(second.send(second.member("slow"))).staleness == 1


def test_what_was_merged_and_never_handed_out_may_come_again(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    member = first.member("a")
    assert first.send(member)["ok"]
    first.merge_with(3.0)
    assert first.status()["version"] == 1

    second = epochs.next()
    assert second.open_run()["ok"]
    assert second.send(member, 5.0)["ok"]
    second.merge_with(7.0)

    np.testing.assert_allclose(second.release(1)[1], INITIAL + 6, rtol=1e-6)


@pytest.mark.parametrize("again", ["older version", "newer version", "another model"])
@pytest.mark.parametrize("replaced", [True, False])
def test_run_is_not_opened_at_another_model_than_was_handed_out(
    epochs: Epochs, again: str, replaced: bool
) -> None:
    lab = epochs.next()
    lab.open_run()
    lab.merge_with(1.0, 3.0)
    params = lab.release(1)[1]
    if replaced:
        lab = epochs.next()
    asked: dict[str, dict[str, Any]] = {
        "older version": {"version": 0},
        "newer version": {"version": 2, "params": params.tobytes()},
        "another model": {"version": 1},
    }

    assert lab.open_run(**asked[again])["code"] == Code.RUN_REGRESSED

    assert lab.open_run(version=1, params=params.tobytes())["ok"]


def test_memory_follows_the_release_asked_for_not_the_newest_merged(epochs: Epochs) -> None:
    first = epochs.next()
    first.open_run()
    first.merge_with(1.0, 3.0)
    late = first.member("late")
    assert first.send(late)["ok"]
    first.merge_with(3.0)
    assert first.status()["version"] == 2
    params = first.release(1)[1]

    second = epochs.next()
    assert second.open_run(version=1, params=params.tobytes())["ok"]
    assert second.send(late)["ok"]


def test_release_that_cannot_be_remembered_is_not_handed_out(tmp_path: Path) -> None:
    image = SealedImage()
    image.state = Broken(tmp_path, LocalDisk(), SystemRng())
    lab = Lab(image)
    try:
        assert lab.open_run()["ok"]
        lab.merge_with(1.0, 3.0)
        ask = {"op": "GET_RELEASE", "run_id": lab.run_id, "version": 1}
        assert lab.ask_all(lab.signer.sign(ask)) == (lab.ask(ask), b"")
        assert lab.ask(ask)["code"] == Code.RUN_MEMORY
        assert lab.status()["version"] == 1
    finally:
        lab.close()


class Broken(SealedState):
    """A platform whose disk is full."""

    def store(self, name: str, sealed: bytes) -> None:
        raise OSError("no space left on device")
