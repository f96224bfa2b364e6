"""Evaluation: centrally, and on clients in rounds spread over nodes as they fall idle."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from logging import INFO, WARNING

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fl_server.strategy.events import EvaluationEvent
from fl_server.strategy.flwr_compat import log
from fl_server.strategy.hooks import Hooks, RunSettings
from fl_server.strategy.replies import was_lost


class EvaluationRound:
    """Evaluation of one model version by a set of nodes.

    Parameters
    ----------
    version : int
        The version to evaluate.
    messages : iterable of Message
        One evaluation message per node.
    """

    def __init__(self, version: int, messages: Iterable[Message]) -> None:
        self.version = version
        self.replies: list[Message] = []
        self._waiting = {m.metadata.dst_node_id: m for m in messages}
        self._asked: set[int] = set()

    @property
    def done(self) -> bool:
        """Whether nobody is left to ask or to wait for."""
        return not self._waiting and not self._asked

    def message_for(self, node: int) -> Message | None:
        """Return the message a node has yet to get, which counts as asked from now on."""
        message = self._waiting.pop(node, None)
        if message is not None:
            self._asked.add(node)
        return message

    def answered(self, node: int, reply: Message) -> None:
        """Note a node's reply, be it metrics or an error.

        Replies of nodes not asked in this round, late ones from a round before, do not count.
        """
        if node in self._asked:
            self._asked.remove(node)
            self.replies.append(reply)

    def give_up(self, node: int) -> None:
        """Expect nothing more from a node."""
        self._asked.discard(node)

    def keep_only(self, connected: Collection[int]) -> None:
        """Drop the nodes that left before they were asked."""
        self._waiting = {n: m for n, m in self._waiting.items() if n in connected}


class Evaluator:
    """Evaluates versions, at most one client-side round at a time.

    Parameters
    ----------
    hooks : Hooks
        The strategy.
    grid : Grid
        Where nodes are reached.
    config : RunSettings
        Evaluation function and configuration.
    result : Result
        Takes the metrics.
    elapsed : callable
        Returns the seconds since the start of the run.

    Attributes
    ----------
    current : EvaluationRound or None
        The open round.
    """

    def __init__(
        self,
        hooks: Hooks,
        grid: Grid,
        config: RunSettings,
        result: Result,
        elapsed: Callable[[], float],
    ) -> None:
        self.current: EvaluationRound | None = None
        self._hooks, self._grid, self._config = hooks, grid, config
        self._result, self._elapsed = result, elapsed
        self._worthwhile = True

    def centrally(self, version: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Call the user's evaluation function, if there is one."""
        if self._config.evaluate_fn is None:
            return None
        metrics = self._config.evaluate_fn(version, arrays)
        if metrics is not None:
            log(INFO, "\t└──> Global evaluation: %s", metrics)
            self._result.evaluate_metrics_serverapp[version] = metrics
        return metrics

    def open(self, version: int, arrays: ArrayRecord) -> None:
        """Begin a round on clients; none if the strategy asks nobody."""
        if not self._worthwhile:
            return
        messages = self._hooks.configure_evaluate(
            version, arrays, self._config.evaluate_config, self._grid
        )
        opened = EvaluationRound(version, messages)
        self.current = None if opened.done else opened

    def close(self) -> None:
        """End the open round, complete or not, and aggregate what came in."""
        closing, self.current = self.current, None
        if closing is None:
            return
        replies, metrics = closing.replies, None
        if replies:
            metrics = self._hooks.aggregate_evaluate(closing.version, replies)
        if metrics is not None:
            self._result.evaluate_metrics_clientapp[closing.version] = metrics
        event = EvaluationEvent(self._elapsed(), closing.version, len(replies), metrics)
        self._hooks.notify(event)
        answers = [reply for reply in replies if not was_lost(reply)]
        if answers and all(reply.has_error() for reply in answers):
            # Typically the ClientApp has no evaluate function: asking again would cost every
            # node a task per round for nothing.
            self._worthwhile = False
            log(
                WARNING,
                "All %s evaluation tasks failed; no more client-side evaluation in this run. %s",
                len(answers),
                answers[0].error.reason,
            )
