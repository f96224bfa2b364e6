"""What hostile clients of a simulation send."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fl_protocol.codes import ConfigInvalid
from fl_sim.attacks import ATTACKS, Attack, AttackedTrainer, flipped_labels, hostile_clients
from fl_sim.cohort.base import CohortTrainer, Task
from fl_sim.cohort.choice import trainer_for
from strategies.update import Vector
from tests.support.federation import CLASSES
from tests.support.simulation import initial, problem

HOSTILE = (1, 3, 5)
BASE = initial()
TASKS = [Task(BASE, client, 0) for client in range(6)]


def trainers(name: str) -> tuple[CohortTrainer, CohortTrainer, AttackedTrainer]:
    job = problem()
    poisoned = replace(job, data=flipped_labels(job.data, CLASSES))
    honest, flipped = (trainer_for(p, "numpy", BASE, 8) for p in (job, poisoned))
    attack = Attack(name, HOSTILE, boost=4.0, deviations=2.0)  # type: ignore[arg-type]
    return honest, flipped, AttackedTrainer(honest, flipped, attack)


def sent(trainer: CohortTrainer | AttackedTrainer, tasks: list[Task]) -> list[Vector]:
    rows = [np.empty_like(BASE) for _ in tasks]
    trainer.train(tasks, rows)
    return rows


@pytest.mark.parametrize("name", ATTACKS)
def test_only_hostile_clients_send_something_else(name: str) -> None:
    honest, _, attacked = trainers(name)
    for task, mine, true in zip(TASKS, sent(attacked, TASKS), sent(honest, TASKS), strict=True):
        assert np.array_equal(mine, true) == (task.client not in HOSTILE)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_sent_does_not_depend_on_the_cohort(name: str) -> None:
    attacked = trainers(name)[2]
    alone = [sent(attacked, [task])[0] for task in TASKS]
    assert np.array_equal(alone, sent(attacked, TASKS))


def test_sign_flip_turns_the_update_round() -> None:
    honest, _, attacked = trainers("sign-flip")
    np.testing.assert_allclose(sent(attacked, [TASKS[1]])[0], -5 * sent(honest, [TASKS[1]])[0])


def test_model_replacement_boosts_what_was_learnt_from_flipped_labels() -> None:
    flipped = sent(trainers("label-flip")[2], [TASKS[1]])[0]
    np.testing.assert_array_equal(flipped, sent(trainers("label-flip")[1], [TASKS[1]])[0])
    boosted = sent(trainers("model-replacement")[2], [TASKS[1]])[0]
    np.testing.assert_allclose(boosted, 4 * flipped)


def test_little_is_enough_hides_in_the_spread_of_the_accomplices() -> None:
    honest, _, attacked = trainers("little-is-enough")
    rows = np.array(sent(honest, [TASKS[client] for client in HOSTILE]))
    expected = rows.mean(axis=0) - 2 * rows.std(axis=0)
    for row in sent(attacked, [TASKS[client] for client in HOSTILE]):
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-7)


def test_labels_are_mirrored() -> None:
    data = problem().data
    assert (flipped_labels(data, CLASSES).labels + data.labels == CLASSES - 1).all()


def test_larger_shares_contain_smaller_ones_and_spare_the_trusted() -> None:
    few, many = (hostile_clients(40, share, 3, spared=(0,)) for share in (0.1, 0.4))
    assert (len(few), len(many)) == (4, 16)
    assert set(few) < set(many)
    assert 0 not in many


def test_unknown_or_empty_attacks_are_refused() -> None:
    with pytest.raises(ConfigInvalid):
        Attack("bribery", (1,))  # type: ignore[arg-type]
    with pytest.raises(ConfigInvalid):
        Attack("sign-flip", ())
