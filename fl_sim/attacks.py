"""Hostile clients: what they send instead of what they have trained.

Four attacks of the literature on the results of a cohort trainer:

- ``sign-flip``: the update turned round, five times as long.
- ``label-flip``: honest training on labels y replaced by classes - 1 - y (Tolpegin et al., *Data
  Poisoning Attacks Against Federated Learning Systems*, ESORICS 2020).
- ``model-replacement``: the same, scaled up so that one update outweighs a whole buffer
  (Bagdasaryan et al., *How To Backdoor Federated Learning*, AISTATS 2020, equation 3).
- ``little-is-enough``: all hostile clients send the mean of their honest updates less `deviations`
  standard deviations in each coordinate, inside the spread of the honest ones (Baruch et al., *A
  Little Is Enough*, NeurIPS 2019, algorithm 3, which takes 1.5 on MNIST).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.cohort.base import ClientData, CohortTrainer, Models, Task
from strategies.update import Vector

AttackName: TypeAlias = Literal["sign-flip", "label-flip", "model-replacement", "little-is-enough"]
ATTACKS: tuple[AttackName, ...] = get_args(AttackName)

_SIGN_FLIP = -5.0


@dataclass(frozen=True)
class Attack:
    """An attack and who takes part in it.

    Parameters
    ----------
    name : {"sign-flip", "label-flip", "model-replacement", "little-is-enough"}
        What is sent.
    hostile : tuple of int
        The hostile clients.
    boost : float
        Factor of model replacement; the number of updates in a buffer replaces the model.
    deviations : float
        z of little-is-enough.
    accomplices : int
        How many hostile clients little-is-enough takes mean and deviation of.

    Raises
    ------
    ConfigInvalid
        There is no such attack, or nobody to carry it out.
    """

    name: AttackName
    hostile: tuple[int, ...]
    boost: float = 10.0
    deviations: float = 1.5
    accomplices: int = 5

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise _invalid(f"there is no attack {self.name!r}; choose one of {', '.join(ATTACKS)}")
        if not self.hostile or self.accomplices < 2:
            raise _invalid("an attack needs a hostile client, and two accomplices or more")


class AttackedTrainer:
    """A cohort trainer some of whose clients are hostile.

    What a task sends depends on the task alone, as with any trainer, so a run repeats bit for bit.

    Parameters
    ----------
    honest : CohortTrainer
        Trains on the true labels.
    flipped : CohortTrainer
        The same on :func:`flipped_labels`.
    attack : Attack
        Who sends what.
    """

    def __init__(self, honest: CohortTrainer, flipped: CohortTrainer, attack: Attack) -> None:
        self._honest, self._flipped, self._attack = honest, flipped, attack
        self._members = frozenset(attack.hostile)

    @property
    def name(self) -> str:
        """Name of the trainer within."""
        return self._honest.name

    @property
    def steps(self) -> int:
        """Local steps of a task that does not say its own."""
        return self._honest.steps

    def accuracies(self, models: Models) -> list[float]:
        """Return each model's accuracy on the true labels of the test examples."""
        return self._honest.accuracies(models)

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write what each client sends."""
        for hostile in (False, True):
            mine = [n for n, task in enumerate(tasks) if (task.client in self._members) == hostile]
            if mine:
                work = self._attacked if hostile else self._honest.train
                work([tasks[n] for n in mine], [out[n] for n in mine])

    def _attacked(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        match self._attack.name:
            case "sign-flip":
                self._honest.train(tasks, out)
                _scale(out, _SIGN_FLIP)
            case "label-flip":
                self._flipped.train(tasks, out)
            case "model-replacement":
                self._flipped.train(tasks, out)
                _scale(out, self._attack.boost)
            case "little-is-enough":
                for task, row in zip(tasks, out, strict=True):
                    self._hide_in_spread(task, row)

    def _hide_in_spread(self, task: Task, out: Vector) -> None:
        chosen = self._attack.hostile[: self._attack.accomplices]
        rows = np.empty((len(chosen), out.size), np.float32)
        self._honest.train([task._replace(client=client) for client in chosen], list(rows))
        np.subtract(rows.mean(axis=0), self._attack.deviations * rows.std(axis=0), out=out)


def flipped_labels(data: ClientData, classes: int) -> ClientData:
    """Return the clients' data with every label y replaced by ``classes - 1 - y``."""
    return replace(data, labels=classes - 1 - data.labels)


def hostile_clients(
    clients: int, share: float, seed: int, spared: Collection[int] = ()
) -> tuple[int, ...]:
    """Draw the hostile clients: a share of all of them, none of those spared.

    Of the same seed a larger share contains the smaller ones.
    """
    order = np.random.default_rng((seed, 7)).permutation(clients).tolist()
    return tuple([client for client in order if client not in spared][: round(share * clients)])


def _scale(rows: Sequence[Vector], factor: float) -> None:
    for row in rows:
        row *= np.float32(factor)


def _invalid(sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, f"attack: {sentence}.")
