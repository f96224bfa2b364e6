"""What Flower calls the hooks of a round, and a subclass may override: here, of a version."""

from __future__ import annotations

import random
from collections.abc import Iterable
from logging import WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_protocol.codes import Code, ConfigInvalid
from fl_server.strategy.flwr_compat import log
from fl_server.strategy.model import Model
from fl_server.strategy.options import MetricsAggregation

# Addressee of a version's template: it has to be there, connected nodes or not.
_NOBODY = 0


class RoundHooks(Strategy):
    """Messages and metrics of the versions of a run, by the options of `AsyncStrategy`."""

    fraction_evaluate: float
    min_evaluate_nodes: int
    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    train_metrics_aggr_fn: MetricsAggregation
    evaluate_metrics_aggr_fn: MetricsAggregation
    _model: Model | None
    _rng: random.Random

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Build the training messages of a version.

        Called once per version with the same `config` object, so that an override may adapt
        it by `server_round` (the version plus one). Who gets them and when is decided as nodes
        fall idle: of the messages returned the content of the first counts. An override that
        returns none is asked again a second later.
        """
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return [Message(record, _NOBODY, MessageType.TRAIN)]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the metrics of the updates behind a version.

        Called after each merge with the accepted replies, their arrays removed: the engine has
        aggregated those one by one as they came. Returns the published model and the metrics.

        Raises
        ------
        ConfigInvalid
            If called outside `start`, as wrappers do that run the strategy in rounds.
        """
        if self._model is None:
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                "An asynchronous strategy aggregates inside start() only; it cannot be driven in "
                "rounds by a wrapper.",
            )
        contents = [reply.content for reply in replies if reply.has_content()]
        metrics = self._aggregate(self.train_metrics_aggr_fn, contents, "training")
        return self._model.published, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Choose the nodes that evaluate a version and build their messages."""
        if self.fraction_evaluate == 0.0:
            return []
        nodes = sorted(grid.get_node_ids())
        wanted = max(int(len(nodes) * self.fraction_evaluate), self.min_evaluate_nodes)
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        chosen = self._rng.sample(nodes, min(wanted, len(nodes)))
        return [Message(record, node, MessageType.EVALUATE) for node in chosen]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate the metrics of an evaluation round."""
        contents = [reply.content for reply in replies if reply.has_content()]
        return self._aggregate(self.evaluate_metrics_aggr_fn, contents, "evaluation")

    def _aggregate(
        self, aggregate: MetricsAggregation, contents: list[RecordDict], what: str
    ) -> MetricRecord | None:
        if not contents:
            return None
        try:
            return aggregate(contents, self.weighted_by_key)
        except Exception as error:
            # One node's odd metrics must not end everybody's run.
            log(WARNING, "Could not aggregate %s metrics: %r", what, error)
            return None
