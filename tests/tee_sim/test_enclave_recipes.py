"""Every disjoint recipe of the catalogue inside a locked-down enclave."""

from __future__ import annotations

import numpy as np
import pytest

from strategies import ClientUpdate, Engine, Recipe, ReleaseRule, recipe_from
from strategies.catalog import RECIPES
from tests.support.enclave import INITIAL, K, Lab, SealedImage, described

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
