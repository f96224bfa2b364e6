"""Every recipe of the catalogue behind the Flower strategy, on virtual time."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from flwr.app import Context, Message, MessageType

from asynclave import AsyncStrategy, AsyncWA, recipe_from
from fl_protocol.codes import ConfigInvalid
from fl_sim.failures import Failures
from strategies.catalog import RECIPES
from tests.support.federation import (
    Recorder,
    accuracy_of,
    client_app,
    initial_arrays,
    virtual_grid,
)


def small(name: str) -> dict[str, int]:
    has_buffer = any(field.name == "buffer_size" for field in fields(RECIPES[name]))
    return {"buffer_size": 3} if has_buffer else {}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_merges_and_changes_the_model(name: str) -> None:
    recorder = Recorder()
    recipe = recipe_from(name, **small(name))
    strategy = AsyncStrategy(recipe, fraction_evaluate=0.0, callbacks=[recorder])

    result = strategy.start(virtual_grid(), initial_arrays(), num_rounds=8)

    assert [event.merge.version for event in recorder.merges] == list(range(1, 9))
    assert any(
        (result.arrays[key].numpy() != array.numpy()).any()
        for key, array in initial_arrays().items()
    )


def test_cache_on_disk_trains_the_very_model_of_a_cache_in_memory(tmp_path: Path) -> None:
    models = []
    for options in ({}, {"cache": "disk", "cache_folder": tmp_path}):
        strategy = AsyncWA(fraction_evaluate=0.0, **options)
        result = strategy.start(virtual_grid(), initial_arrays(), num_rounds=8)
        models.append([array.numpy().tobytes() for array in result.arrays.values()])

    assert models[0] == models[1]


def test_missing_cache_folder_is_refused_before_any_training(tmp_path: Path) -> None:
    strategy = AsyncWA(cache="disk", cache_folder=tmp_path / "missing")

    with pytest.raises(ConfigInvalid, match="cache_folder"):
        strategy.start(virtual_grid(), initial_arrays(), num_rounds=1)


def test_fedavg_hands_out_one_cohort_per_version_and_counts_its_first_results() -> None:
    tasks: Counter[int] = Counter()

    def note(message: Message, context: Context, call_next: object) -> Message:
        if message.metadata.message_type == MessageType.TRAIN:
            tasks[message.content["config"]["asynclave-base-version"]] += 1
        return call_next(message, context)

    recorder = Recorder()
    recipe = recipe_from("fedavg", buffer_size=3, over_selection=0.3)
    strategy = AsyncStrategy(recipe, fraction_evaluate=0.0, callbacks=[recorder])
    grid = virtual_grid(12, app=client_app(mods=[note]))

    result = strategy.start(grid, initial_arrays(), num_rounds=25)

    assert max(tasks.values()) == 4
    assert {len(event.merge.consumed) for event in recorder.merges} == {3}
    assert {event.staleness for event in recorder.updates if event.accepted} == {0}
    assert {event.code for event in recorder.updates} == {"accepted", "TOO_STALE"}
    assert accuracy_of(result.arrays) > accuracy_of(initial_arrays()) + 0.2


def test_fedavg_sends_substitutes_for_the_clients_a_round_lost() -> None:
    grid = virtual_grid(12, failures=Failures(drop_out=0.5, seed=1))
    recipe = recipe_from("fedavg", buffer_size=3, over_selection=0.0)
    strategy = AsyncStrategy(recipe, fraction_evaluate=0.0)

    result = strategy.start(grid, initial_arrays(), num_rounds=10)

    assert list(result.train_metrics_clientapp) == list(range(1, 11))
