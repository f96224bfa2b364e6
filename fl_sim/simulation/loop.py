"""Events, training and merging of one run."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fl_sim.cohort.base import CohortTrainer, Task
from fl_sim.simulation.evaluations import Evaluation, Evaluations
from fl_sim.simulation.events import NOBODY, Choice, Event, TaskTimes
from fl_sim.simulation.outcomes import ACCEPTED, FAILED, REFUSALS
from fl_sim.simulation.pace import Pace
from fl_sim.simulation.versions import LiveVersions
from fl_sim.simulation.windows import scheduler_for
from strategies.cached_rows import RowSpace
from strategies.engine import Engine
from strategies.privacy.settings import Privacy
from strategies.recipe import Recipe
from strategies.roles import Roles
from strategies.screening import Limits
from strategies.update import ClientUpdate, Rejected, Vector
from strategies.window import Buffer

_NOISE = 21


@dataclass(frozen=True)
class LoopSettings:
    """Settings of a run; times are virtual seconds.

    Attributes
    ----------
    in_flight : int
        Tasks under way at a time, unless the recipe hands out cohorts.
    horizon : float
        End of the run.
    evaluate_every : float
        Time between evaluations of the published model.
    max_staleness : int
        Versions an update may lag behind.
    max_updates : int, optional
        Delivered updates after which the run ends early.
    cohort_size : int (default: 16)
        Tasks trained together. Changes speed, never results.
    seed : int (default: 0)
        Seed of the choice of clients.
    """

    in_flight: int
    horizon: float
    evaluate_every: float
    max_staleness: int
    max_updates: int | None = None
    cohort_size: int = 16
    seed: int = 0


class Result(NamedTuple):
    """What a task made: trained minus base model, and the local steps it took."""

    delta: Vector
    steps: int


class Simulation:
    """One run of one recipe.

    Parameters
    ----------
    trainer : CohortTrainer
        Does the local training.
    sizes : sequence of int
        Number of examples of each client.
    initial : Vector
        The untrained model.
    fleet : TaskTimes
        The devices.
    recipe : Recipe
        The aggregation rule.
    settings : LoopSettings
        How long, how many at a time.
    on_evaluation : callable, optional
        Told of every evaluation, a little after its time.
    pace : Pace, optional
        Steps of each task; those of the configuration if unset.
    selector : Choice, optional
        Chooses the clients; uniform if unset.
    disk : RowSpace, optional
        Where recipes with ``cache = "disk"`` keep their rows.
    privacy : Privacy, optional
        Differential privacy of every merge, its noise drawn from the seed.
    roles : Roles
        What the columns of the model hold; nothing is known of them by default.

    Attributes
    ----------
    evaluations : list of Evaluation
        In order of time; whole after `run`.
    updates : int
        Updates delivered.
    cohorts : int
        Calls of the trainer: tasks trained together share its overhead.
    outcomes : Counter
        Number of tasks ended, by the code of their update, "accepted" for those merged or waiting;
        "failed" for those that broke off.
    participation : list of int
        Number of accepted updates of each client.
    busy_time : float
        Integral of the number of tasks under way over time, in virtual seconds. A task that
        pauses while its client is offline is under way.
    engine : Engine
        The server.
    """

    def __init__(
        self,
        trainer: CohortTrainer,
        sizes: list[int],
        initial: Vector,
        fleet: TaskTimes,
        recipe: Recipe,
        settings: LoopSettings,
        on_evaluation: Callable[[Evaluation], None] | None = None,
        pace: Pace | None = None,
        selector: Choice | None = None,
        disk: RowSpace | None = None,
        privacy: Privacy | None = None,
        roles: Roles = Roles(),  # noqa: B008 - frozen
    ) -> None:
        self._trainer, self._sizes, self._settings, self._pace = trainer, sizes, settings, pace
        limits = Limits(max_staleness=settings.max_staleness, max_examples=max(sizes))
        # Repeatable, unlike the noise of a federation.
        noise = np.random.default_rng((settings.seed, _NOISE)).bytes
        self.engine = Engine(
            recipe,
            initial,
            limits=limits,
            disk=disk,
            privacy=privacy,
            entropy=noise,
            roles=roles,
        )
        window, cohort = self.engine.parts.window, self.engine.parts.cohort
        self._max_wait = window.max_wait if isinstance(window, Buffer) else None
        self._scheduler = scheduler_for(
            fleet,
            cohort or settings.in_flight,
            settings.seed,
            rounds=cohort is not None,
            work=None if pace is None else self._begin,
            selector=selector,
        )
        self._steps: dict[int, int] = {}
        self.versions = LiveVersions()
        self._results: dict[int, Result] = {}
        self._spare: list[Vector] = []
        self._evaluations = Evaluations(trainer, initial.size, on_evaluation)
        self.evaluations = self._evaluations.known
        self.updates = 0
        self.cohorts = 0
        self.outcomes: Counter[str] = Counter()
        self.participation = [0] * len(fleet)
        self.busy_time = 0.0
        self._digest = hashlib.sha256()

    def run(self) -> str:
        """Run to the end.

        Returns
        -------
        str
            SHA-256 over the order, base versions and fates of all updates, and the models
            published at every evaluation, with the last model of all.
        """
        most = self._settings.max_updates or math.inf
        self._hand_out()
        end, busy, since = self._settings.horizon, self._scheduler.busy, 0.0
        while (event := self._scheduler.next()) and event.time <= end:
            self.busy_time += busy * (event.time - since)
            since = event.time
            self._evaluate_before(event.time)
            self._handle(event)
            if self.updates >= most:
                end = event.time
                break
            self._hand_out()
            busy = self._scheduler.busy
        self.busy_time += busy * (end - since)
        self._evaluate_before(end)
        self._evaluate(end)
        self._evaluations.finish()
        self._digest.update(self.engine.params.data)
        return self._digest.hexdigest()

    def _hand_out(self) -> None:
        begun = self._scheduler.fill()
        self.versions.hold(self.engine.version, self.engine.params, begun)

    def _begin(self, client: int, now: float) -> float:
        """Note the steps of a task that begins; return its share of a full task."""
        assert self._pace is not None
        steps = self._steps[client] = self._pace.steps(client, now)
        return steps / self._trainer.steps

    def _handle(self, event: Event) -> None:
        if event.delivered:
            self._take(event)
        elif event.client != NOBODY:
            self.outcomes[FAILED] += 1
        if self.engine.ready(event.time):
            self.engine.merge(event.time)
            self._scheduler.advance(self.engine.version)
        self._forget(event.base_version, self.engine.version - 1)

    def _forget(self, *versions: int) -> None:
        """Drop models that the engine keeps for updates from them, and none is to come."""
        for version in versions:
            if version != self.engine.version and version not in self.versions:
                self.engine.models.pop(version, None)

    def _take(self, event: Event) -> None:
        if event.client not in self._results:
            self._train(event)
        delta = self._results.pop(event.client).delta
        client, base = str(event.client), event.base_version
        self.versions.release(base)
        update = ClientUpdate(client, base, delta, self._sizes[event.client], f"{client}@{base}")
        was_empty = not self.engine.pending
        answer = self.engine.offer(update, event.time)
        self._spare.append(delta)
        code = answer.code.value if isinstance(answer, Rejected) else ACCEPTED
        self._scheduler.answer(event, refused=code in REFUSALS)
        if was_empty and self._max_wait is not None and code == ACCEPTED:
            self._scheduler.wake(event.time + self._max_wait)
        self.outcomes[code] += 1
        self.participation[event.client] += code == ACCEPTED
        self.updates += 1
        self._digest.update(struct.pack("<qq", event.client, base) + code.encode())

    def _train(self, event: Event) -> None:
        """Train this task and those of the tasks under way that complete next."""
        others = self._scheduler.claim(self._settings.cohort_size - 1, self._settings.horizon)
        chosen = [(event.client, event.base_version), *others]
        tasks = [
            Task(self.versions.model(base), client, base, self._steps.get(client))
            for client, base in chosen
        ]
        rows = [self._spare.pop() if self._spare else self._new_row() for _ in tasks]
        self._trainer.train(tasks, rows)
        self.cohorts += 1
        for task, row in zip(tasks, rows, strict=True):
            self._results[task.client] = Result(row, task.steps or self._trainer.steps)

    def _new_row(self) -> Vector:
        return np.empty(self.engine.params.size, np.float32)

    def _evaluate_before(self, time: float) -> None:
        while (due := len(self._evaluations) * self._settings.evaluate_every) < time:
            self._evaluate(due)

    def _evaluate(self, time: float) -> None:
        version = self.engine.version
        if version == self._evaluations.version:
            self._evaluations.repeat(time)
            return
        published = self.engine.published
        self._digest.update(published.data)
        self._evaluations.add(time, version, published)
