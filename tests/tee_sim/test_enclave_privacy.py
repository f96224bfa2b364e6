"""An enclave whose policy makes releases differentially private."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code
from fl_protocol.receipts import NO_PRIVACY
from strategies import AsyncWA, FedAvg, Privacy
from tests.support.enclave import INITIAL, Lab, Member, SealedImage, described, fresh_run

PRIVACY = Privacy(clip=1.0, noise_multiplier=1.0, delta=1e-5, max_epsilon=8.0)
_epochs = count(100)


class Epochs:
    """Enclaves of one run, one after the other, and two clients."""

    def __init__(self, image: SealedImage) -> None:
        self._image, self._issuer, self._run = image, Ed25519PrivateKey.generate(), fresh_run()
        self._lab: Lab | None = None
        self.next()
        self.lab.open_run()
        self.clients = [self.lab.member(name) for name in ("a", "b")]
        self.digest, self.version, self.params = "", 0, INITIAL

    @property
    def lab(self) -> Lab:
        assert self._lab is not None
        return self._lab

    def next(self, privacy: Privacy | None = PRIVACY) -> Lab:
        self.close()
        changes = {"dp": privacy}
        self._lab = Lab(self._image, self._issuer, changes, next(_epochs), self._run)
        return self._lab

    def close(self) -> None:
        if self._lab is not None:
            self._lab.close()

    def reopen(self) -> None:
        """End the enclave; open the run in its successor at the newest release handed out."""
        self.next()
        assert self.lab.open_run(version=self.version, params=self.params.tobytes())["ok"]

    def send(self, member: Member) -> dict[str, Any]:
        base = {"base_version": self.version}
        if self.digest:
            base["base_model_digest"] = self.digest
        return self.lab.send(member, 0.1, **base)

    def merge(self) -> None:
        for client in self.clients:
            assert self.send(client)["ok"]

    def fetch(self, version: int) -> str:
        """Take a release over and return its epsilon."""
        record, self.params = self.lab.release(version)
        self.version, self.digest = version, record.model_digest
        return record.epsilon


@pytest.fixture
def epochs(sealed_image: SealedImage) -> Iterator[Epochs]:
    epochs = Epochs(sealed_image)
    yield epochs
    epochs.close()


def test_release_is_noisy_and_says_what_was_spent(epochs: Epochs) -> None:
    epochs.merge()
    assert epochs.fetch(1) == PRIVACY.stated(1)
    noise = epochs.params - INITIAL - 0.1
    # 16 draws with deviation 1/2: none of them 8 deviations off, and not all within a tenth
    assert 0.05 < np.abs(noise).max() < 4.0


def test_client_whose_budget_is_spent_is_refused_with_a_receipt(epochs: Epochs) -> None:
    for version in (1, 2):
        epochs.merge()
        epsilon = epochs.fetch(version)
    assert epsilon == PRIVACY.stated(2)

    refusal = epochs.send(epochs.clients[0])

    assert (refusal["ok"], refusal["code"]) == (False, "DP_BUDGET")
    assert refusal["payload"]
    assert epochs.lab.status()["pending"] == 0
    # others have theirs
    assert epochs.send(epochs.lab.member("c"))["ok"]


def test_successor_does_not_forget_what_was_spent(epochs: Epochs) -> None:
    epochs.merge()
    epochs.fetch(1)
    epochs.reopen()
    epochs.merge()
    assert epochs.fetch(2) == PRIVACY.stated(2)
    epochs.reopen()
    assert epochs.send(epochs.clients[1])["code"] == "DP_BUDGET"


@pytest.mark.parametrize(
    "changed", [None, replace(PRIVACY, noise_multiplier=40.0), replace(PRIVACY, max_epsilon=1e3)]
)
def test_successor_goes_on_under_the_same_privacy_only(
    epochs: Epochs, changed: Privacy | None
) -> None:
    epochs.merge()
    epochs.fetch(1)
    asked = {"version": epochs.version, "params": epochs.params.tobytes()}

    assert epochs.next(changed).open_run(**asked)["code"] == Code.DP_CHANGED
    assert epochs.next().open_run(**asked)["ok"]


def test_run_that_began_without_privacy_gets_none_later(epochs: Epochs) -> None:
    epochs.next(None)
    epochs.lab.open_run()
    epochs.merge()
    assert epochs.fetch(1) == NO_PRIVACY

    asked = {"version": epochs.version, "params": epochs.params.tobytes()}
    assert epochs.next().open_run(**asked)["code"] == Code.DP_CHANGED


def test_merge_that_nobody_saw_is_not_spent_and_gets_noise_of_its_own(epochs: Epochs) -> None:
    epochs.merge()
    assert epochs.lab.status()["version"] == 1
    for _ in range(3):
        epochs.reopen()
        epochs.merge()
    assert epochs.fetch(1) == PRIVACY.stated(1)


def test_release_asked_for_again_is_the_same_and_spends_nothing(epochs: Epochs) -> None:
    epochs.merge()
    first = epochs.fetch(1), epochs.params.tobytes()
    assert (epochs.fetch(1), epochs.params.tobytes()) == first


def test_newest_release_carries_the_noise_and_the_spending_of_those_before(epochs: Epochs) -> None:
    epochs.merge()
    others = [epochs.lab.member(name) for name in ("c", "d")]
    # version 1 is never fetched; version 2 is a function of both merges
    for member in others:
        assert epochs.send(member)["ok"]
    assert epochs.lab.status()["version"] == 2
    assert epochs.fetch(2) == PRIVACY.stated(1)
    epochs.reopen()
    epochs.merge()
    assert epochs.fetch(3) == PRIVACY.stated(2)
    for member in epochs.clients:
        assert epochs.send(member)["code"] == "DP_BUDGET"
    for member in others:
        assert epochs.send(member)["ok"]


@pytest.mark.parametrize("recipe", [AsyncWA(buffer_size=2, disjoint=True), FedAvg(buffer_size=2)])
def test_recipe_without_known_sensitivity_is_refused(sealed_image: SealedImage, recipe) -> None:
    lab = Lab(sealed_image, changes={"recipe": described(recipe), "dp": PRIVACY})
    try:
        reply = lab.open_run(described(recipe))
        assert (reply["ok"], reply["code"]) == (False, "DP_RECIPE")
        assert recipe.name in reply["sentence"]
    finally:
        lab.close()
