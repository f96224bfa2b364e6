"""Every disjoint recipe of the catalogue inside a locked-down enclave."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.receipts import ACCEPTED
from strategies import ClientUpdate, Engine, Layout, Recipe, ReleaseRule, recipe_from
from strategies.catalog import RECIPES
from strategies.roles import Roles
from tee_sim.enclave.run import Run
from tests.support.enclave import INITIAL, K, Lab, SealedImage, described, policy_for

DISJOINT = [recipe_from(name, buffer_size=K) for name in RECIPES if recipe_from(name).disjoint] + [
    recipe_from("async-wa", buffer_size=K, disjoint=True)
]


@pytest.mark.parametrize("recipe", DISJOINT, ids=lambda recipe: recipe.name)
def test_releases_what_the_engine_outside_merges(sealed_image: SealedImage, recipe: Recipe) -> None:
    lab = Lab(sealed_image, changes={"recipe": described(recipe)})
    try:
        assert lab.open_run(described(recipe))["ok"]
        lab.merge_with(1.0, 3.0)
        released = lab.release(1)[1]
    finally:
        lab.close()
    engine = Engine(recipe, INITIAL, release_rule=ReleaseRule(k=K))
    for client, value in (("a", 1.0), ("b", 3.0)):
        engine.offer(ClientUpdate(client, 0, np.full_like(INITIAL, value), 1, client), 0.0)

    np.testing.assert_allclose(released, engine.merge(0.0).params, rtol=1e-6)
    assert (released != INITIAL).any()


def test_run_in_the_enclave_knows_running_statistics_by_name() -> None:
    layout = Layout.of({name: np.ones(2, np.float32) for name in ("0.weight", "1.running_var")})
    recipe = recipe_from("async-wa", buffer_size=K, disjoint=True)
    policy = policy_for(Ed25519PrivateKey.generate(), recipe=described(recipe))

    run = Run("run", layout, recipe, np.ones(4, np.float32), policy)

    assert run.engine.step.roles == Roles(variances=((2, 4),))


def test_enclave_filters_without_telling_whom(sealed_image: SealedImage) -> None:
    recipe = recipe_from(
        "fedbuff",
        buffer_size=4,
        staleness_exponent=0.0,
        robust="krum",
        attackers=0.25,
        clip_norm=1000.0,
    )
    lab = Lab(sealed_image, changes={"recipe": described(recipe)})
    try:
        assert lab.open_run(described(recipe))["ok"]
        replies = [lab.send(lab.member(str(value)), value) for value in (1.0, 2.0, 3.0, -20.0)]
        record, released = lab.release(1)
    finally:
        lab.close()

    np.testing.assert_allclose(released, INITIAL + 2, rtol=1e-5)
    assert {lab.receipt(reply).outcome for reply in replies} == {ACCEPTED}
    assert record.num_updates == 4


@pytest.mark.parametrize("kind", ["median", "trimmed-mean"])
def test_enclave_refuses_filters_that_pick_single_values(
    sealed_image: SealedImage, kind: str
) -> None:
    recipe = recipe_from("fedbuff", buffer_size=4, robust=kind)
    lab = Lab(sealed_image, changes={"recipe": described(recipe)})
    try:
        assert lab.open_run(described(recipe))["code"] == "LEAKY_RECIPE"
    finally:
        lab.close()
