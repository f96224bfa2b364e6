"""The asynchronous loop of one run: hand out tasks, take replies, merge, evaluate."""

from __future__ import annotations

from logging import INFO, WARNING

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fl_protocol.codes import Code, GatewayUnavailable, StorageFailed
from fl_protocol.ports import Clock
from fl_server.intake.base import Intake, OneTask, Outcome
from fl_server.strategy.dispatch import Fleet, Task
from fl_server.strategy.evaluation import Evaluator
from fl_server.strategy.events import MergeEvent, UpdateEvent
from fl_server.strategy.flwr_compat import log
from fl_server.strategy.hooks import Hooks, RunSettings
from fl_server.strategy.model import Model
from fl_server.strategy.pacing import REFRESH_SECONDS, NoProgress, Pacer
from fl_server.strategy.replies import code_in, reason_in, utilisation_in, without_arrays
from fl_server.strategy.snapshots import Snapshot, Snapshots, task_of
from strategies.reject import Reject
from strategies.update import Merge


class AsyncRun:
    """One run of an asynchronous strategy.

    Parameters
    ----------
    hooks : Hooks
        The strategy.
    grid : Grid
        Where nodes are reached.
    clock : Clock
        The run's clock: the grid's own on virtual time.
    intake : Intake
        Where updates go; already open.
    model : Model
        The model in its current version.
    fleet : Fleet
        Nodes and tasks.
    config : RunSettings
        What to do.
    result : Result
        Filled as the run goes on.
    """

    def __init__(
        self,
        hooks: Hooks,
        grid: Grid,
        clock: Clock,
        intake: Intake,
        model: Model,
        fleet: Fleet,
        config: RunSettings,
        result: Result,
    ) -> None:
        self._hooks, self._grid, self._clock, self._intake = hooks, grid, clock, intake
        self._model, self._fleet, self._config, self._result = model, fleet, config, result
        self._start = clock.now()
        self._progress = self._start
        self._refresh = self._start
        self._pacer = Pacer(grid, clock)
        self._version = intake.version
        self._continue_saved()
        self._snapshots = Snapshots(hooks, grid, model, config)
        self._merged_replies: list[Message] = []
        self._evaluator = Evaluator(hooks, grid, config, result, self._elapsed)
        self._training = True
        self._composes_from = self._start
        self._last_failure = "none"
        self._budgets_spent = False

    def run(self) -> None:
        """Merge the wanted number of versions, then evaluate the last one.

        Raises
        ------
        NoProgress
            If no version was merged for the run's timeout, or too few nodes may contribute.
        """
        self._evaluator.centrally(self._version, self._model.published)
        while self._version < self._config.num_versions and not self._hooks.stopping:
            self._step()
            self._take_merges()
            self._require_progress()
        self._training = False
        self._evaluate_last()

    def _continue_saved(self) -> None:
        if self._version:
            self._model.adopt(self._intake.params, self._intake)
            self._result.arrays = self._model.published
            log(INFO, "Continuing at version %d", self._version)
        for update in self._intake.waiting:
            self._fleet.accepted(int(update.client), self._counted(update.base_version))

    def _step(self) -> None:
        now = self._clock.now()
        if now >= self._refresh:
            self._fleet.connect(self._grid.get_node_ids())
            self._refresh = now + REFRESH_SECONDS
            if self._evaluator.current:
                self._evaluator.current.keep_only(self._fleet.connected)
        for task in self._fleet.expired(now):
            self._lose(task)
        self._hand_out(now)
        for reply in self._receive():
            self._handle(reply)
        if self._evaluator.current and self._evaluator.current.done:
            self._evaluator.close()

    def _hand_out(self, now: float) -> None:
        if evaluation := self._evaluator.current:
            for node in self._fleet.idle():
                if message := evaluation.message_for(node):
                    self._push(message, evaluation.version, evaluate=True)
        free = self._free_places()
        if not self._training or free <= 0:
            return
        snapshot = self._snapshots.get(self._version) or self._compose(now)
        if snapshot is None:
            return
        for node in self._fleet.choose(now, self._version, free):
            group_id = str(self._version + 1)
            message = Message(snapshot.content, node, MessageType.TRAIN, group_id=group_id)
            self._push(message, self._version, evaluate=False)

    def _free_places(self) -> int:
        if self._config.cohort is not None:
            return self._config.cohort - self._fleet.num_engaged(self._version)
        return self._hooks.in_flight(len(self._fleet.connected)) - self._fleet.num_training

    def _compose(self, now: float) -> Snapshot | None:
        """Ask the strategy what tasks of this version carry, once a node may train from it."""
        if now < self._composes_from or not self._fleet.trainable(now, self._version):
            return None
        snapshot = self._snapshots.take(self._version, self._fleet.versions_in_use())
        if snapshot is None:
            self._composes_from = self._refresh
            self._last_failure = "configure_train of the strategy returned no message"
        elif isinstance(self._intake, OneTask):
            given = self._grid.run.override_config
            self._intake.begin_task(task_of(snapshot.content, self._model.carried, given))
        return snapshot

    def _push(self, message: Message, version: int, *, evaluate: bool) -> None:
        node, now = message.metadata.dst_node_id, self._clock.now()
        message.metadata.ttl = self._config.timeout
        ids = list(self._grid.push_messages([message]))
        if ids and ids[0]:
            expires = now + self._config.timeout
            self._fleet.start(Task(ids[0], node, version, expires, evaluate))
            return
        # An empty id or a shorter list is how a grid says that a node is gone.
        self._fleet.back_off(node, now)
        if not evaluate:
            self._fleet.trained(node, now, delivered=False)
        elif self._evaluator.current:
            self._evaluator.current.give_up(node)

    def _receive(self) -> list[Message]:
        change = self._fleet.next_change(self._clock.now())
        wake = min(change, self._refresh, self._deadline)
        return self._pacer.receive(self._fleet.pending, wake)

    def _handle(self, reply: Message) -> None:
        task = self._fleet.finish(reply.metadata.reply_to_message_id)
        if task is None:
            return
        if task.evaluate:
            if self._evaluator.current:
                self._evaluator.current.answered(task.node, reply)
        elif self._training and self._version < self._config.num_versions:
            self._take_update(task, reply)
            self._take_merges()

    def _take_update(self, task: Task, reply: Message) -> None:
        if reply.has_error():
            self._fail(task, reason_in(reply.error))
            return
        now = self._clock.now()
        outcome = self._offer(task, reply.content, now)
        # Whoever is refused for being late did what was asked, as far as a node can.
        delivered = outcome.accepted or outcome.code == Reject.TOO_STALE
        load = utilisation_in(reply.content)
        self._fleet.trained(task.node, now, delivered=delivered, utilisation=load)
        if outcome.accepted:
            self._fleet.accepted(task.node, self._counted(task.version))
            self._merged_replies.append(without_arrays(reply))
        else:
            why = f"{outcome.code}: {outcome.detail}" if outcome.detail else outcome.code
            self._last_failure = f"{why} (node {task.node})"
            log(WARNING, "Refused an update of node %d: %s", task.node, why)
            if outcome.code == Reject.DP_BUDGET:
                self._fleet.retire(task.node)
                self._budgets_spent = True
            elif outcome.code != Reject.TOO_STALE:
                self._fleet.back_off(task.node, now)
        self._notify_update(task, outcome.accepted, outcome.code, outcome.staleness)

    def _counted(self, base_version: int) -> int:
        return self._version if self._config.rests_until_merge else base_version

    def _offer(self, task: Task, content: RecordDict, now: float) -> Outcome:
        sent = self._snapshots.get(task.version)
        assert sent is not None  # for its task was under way until now
        try:
            return self._intake.offer(content, str(task.node), task.version, sent.params, now)
        except (GatewayUnavailable, StorageFailed) as error:
            # It may work again; if it does not, the run ends for want of progress.
            log(WARNING, "%s", error)
            return Outcome(False, error.code, self._version - task.version)

    def _fail(self, task: Task, reason: str) -> None:
        now = self._clock.now()
        self._fleet.trained(task.node, now, delivered=False)
        rest = self._fleet.back_off(task.node, now)
        self._last_failure = f"{reason.splitlines()[-1]} (node {task.node})"
        log(WARNING, "Node %d failed; asking again in %.0f s: %s", task.node, rest, reason)
        self._notify_update(task, False, code_in(reason), self._version - task.version)

    def _lose(self, task: Task) -> None:
        self._fleet.finish(task.message_id)
        if not task.evaluate:
            self._fail(task, f"no reply within {self._config.timeout:g} s")
        elif self._evaluator.current:
            self._evaluator.current.give_up(task.node)

    def _take_merges(self) -> None:
        while self._version < self._config.num_versions:
            merge = self._take_merge()
            if merge is None:
                return
            self._adopt(merge)

    def _take_merge(self) -> Merge | None:
        try:
            return self._intake.take_merge()
        except StorageFailed as error:
            if self._last_failure != str(error):
                log(WARNING, "%s", error)
            self._last_failure = str(error)
            return None

    def _adopt(self, merge: Merge) -> None:
        self._version, self._progress = merge.version, self._clock.now()
        self._model.adopt(merge.params, self._intake)
        self._result.arrays = self._model.published
        replies, self._merged_replies = self._merged_replies, []
        log(
            INFO,
            "[VERSION %s/%s] merged %s updates",
            self._version,
            self._config.num_versions,
            merge.num_updates,
        )
        _, train_metrics = self._hooks.aggregate_train(self._version, replies)
        if train_metrics is not None:
            self._result.train_metrics_clientapp[self._version] = train_metrics
        server_metrics = self._evaluator.centrally(self._version, self._model.published)
        self._hooks.notify(
            MergeEvent(
                self._elapsed(),
                merge,
                train_metrics,
                server_metrics,
            )
        )
        if not self._evaluator.current:
            self._evaluator.open(self._version, self._model.published)

    def _evaluate_last(self) -> None:
        self._evaluator.close()
        if self._version == 0 or self._version in self._result.evaluate_metrics_clientapp:
            return
        self._evaluator.open(self._version, self._model.published)
        self._progress = self._clock.now()
        while self._evaluator.current and self._clock.now() < self._deadline:
            self._step()
        self._evaluator.close()

    def _require_progress(self) -> None:
        if self._budgets_spent and self._fleet.num_left < self._intake.least_clients:
            raise NoProgress(
                Reject.DP_BUDGET,
                f"The privacy budget is spent after version {self._version} of "
                f"{self._config.num_versions}: {self._fleet.num_left} connected nodes have any "
                f"left, and a release needs {self._intake.least_clients}. Ask for fewer versions, "
                "or agree on a larger max_epsilon or noise_multiplier.",
            )
        if self._clock.now() < self._deadline:
            return
        raise NoProgress(
            Code.NO_PROGRESS,
            f"No version was merged for {self._config.timeout:g} s: "
            f"{len(self._fleet.connected)} nodes connected, {self._fleet.num_training} training, "
            f"{len(self._merged_replies)} updates waiting in the buffer, last failure: "
            f"{self._last_failure}. Check the ClientApps' logs, or use a smaller buffer_size or a "
            "longer timeout.",
        )

    def _notify_update(self, task: Task, accepted: bool, code: str, staleness: int) -> None:
        self._hooks.notify(
            UpdateEvent(self._elapsed(), str(task.node), accepted, code, staleness, self._version)
        )

    @property
    def _deadline(self) -> float:
        return self._progress + self._config.timeout

    def _elapsed(self) -> float:
        return self._clock.now() - self._start
