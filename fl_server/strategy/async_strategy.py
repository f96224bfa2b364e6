"""The asynchronous strategy behind Flower's strategy interface."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.flower import REPLIES, RUN_ID, WEIGHTED_BY, require_supported
from fl_protocol.ports import Clock, SteadyClock
from fl_server.durable.engine import Saved
from fl_server.intake.base import Intake
from fl_server.intake.plain import Replies
from fl_server.strategy.checks import (
    require_kinds,
    require_lengths,
    require_options,
    require_recipe,
)
from fl_server.strategy.dispatch import Fleet
from fl_server.strategy.events import Event, Observer
from fl_server.strategy.flwr_compat import log, log_strategy_start_info
from fl_server.strategy.hooks import EvaluateFn, RunSettings
from fl_server.strategy.intakes import make_intake, opened, saved_in_flight
from fl_server.strategy.metrics import average_metrics
from fl_server.strategy.model import Model
from fl_server.strategy.options import Gateway, MetricsAggregation
from fl_server.strategy.pacing import wait_for_nodes
from fl_server.strategy.round_hooks import RoundHooks
from fl_server.strategy.run import AsyncRun
from fl_server.strategy.summary import log_summary
from strategies.confidential import require_confidential
from strategies.recipe import Recipe
from strategies.release import ReleaseRule
from strategies.screening import Limits
from strategies.selection import Policy, policy_from, selector_for

RecipeFactory = Callable[[int], Recipe]


class AsyncStrategy(RoundHooks):
    """Asynchronous federated learning with any recipe of ``strategies``.

    Used like Flower's own strategies. Clients train all the time: whoever replies is sent the
    newest model at once, nobody waits for the slowest. What a round is for FedAvg is a merged
    version here: ``num_rounds`` counts versions, metrics are indexed by version.

    Parameters
    ----------
    recipe : Recipe or callable
        The aggregation recipe, or a function of the number of tasks kept in flight that
        returns it, called when the run starts.
    fraction_train : float (default: 1.0)
        Share of the connected nodes kept at work. In case `min_train_nodes` is larger than
        that share, `min_train_nodes` tasks are kept in flight.
    fraction_evaluate : float (default: 1.0)
        Share of the connected nodes that evaluate a version; 0.0 switches client-side
        evaluation off.
    min_train_nodes : int (default: 2)
        Minimum number of training tasks in flight, as far as nodes are connected; one in any
        case.
    min_evaluate_nodes : int (default: 2)
        Minimum number of nodes that evaluate a version.
    min_available_nodes : int (default: 2)
        Number of connected nodes to wait for before the start.
    weighted_by_key : str (default: "num-examples")
        Metric whose value weighs updates and metrics.
    arrayrecord_key : str (default: "arrays")
        Key of the ArrayRecord in messages to nodes.
    configrecord_key : str (default: "config")
        Key of the ConfigRecord in messages to nodes.
    train_metrics_aggr_fn : callable, optional
        Function with signature (list[RecordDict], str) -> MetricRecord, used to aggregate the
        metrics of the updates behind a version. The records hold metrics only. If unset, each
        metric's average over the nodes that report it, weighted by `weighted_by_key`.
    evaluate_metrics_aggr_fn : callable, optional
        The same for evaluation replies.
    replies : {"weights", "deltas"} (default: "weights")
        Whether ClientApps reply trained weights, as for FedAvg, or differences.
    limits : Limits, optional
        Bounds on staleness, norm and number of examples of an update, in plain mode. If unset,
        an update may lag fifty rounds of the tasks in flight behind, and 1000 versions at least;
        ten rounds and 100 versions with recipes that keep models, such as FedAsync.
    release_rule : ReleaseRule, optional
        What every merge must satisfy, in plain mode; an enclave has its own.
    cache_folder : path, optional
        Where recipes with ``cache="disk"`` keep clients' last updates, in plain mode. If unset,
        the system's folder for temporary files.
    seed : int (default: 0)
        Seed of the choice among idle nodes.
    selection : str or Policy (default: "uniform")
        Which idle nodes get the next tasks: "uniform", "speed", "load-aware", "auction" or a
        policy of ``strategies.selection``. It matters only if `fraction_train` is below 1.
    gateway : ServerConfig or path, optional
        Confidential mode: updates go sealed to this gateway's enclave, not through Flower. If
        unset, updates travel as plain arrays in Flower's messages.
    state_folder : path, optional
        Where the run is kept: one that was begun there is continued from its newest version, with
        every update that counted. In plain mode an update counts once it is on disk; in
        confidential mode the enclave has them, and the folder receives its records instead of the
        bundle's `records_dir`. If unset, the run dies with its process.
    run_name : str, optional
        Name of the run at the gateway; "flower-" and Flower's run id if unset.
    callbacks : sequence of Observer, optional
        Called with every `UpdateEvent`, `MergeEvent` and `EvaluationEvent`.

    Attributes
    ----------
    result : Result
        The result of the last run; while a run goes on, or after it was interrupted, what it
        has reached so far.
    fairness : float
        Jain's index of the nodes' numbers of accepted updates in the last run.

    Raises
    ------
    UnknownPolicy
        If no selection policy has the name given.
    LeakyRecipe
        If a recipe whose releases can be differenced is combined with `gateway`.
    BadOption
        If an option of the recipe is out of range, or one that caches on disk is combined with
        `gateway`.
    ConfigInvalid
        If the installed Flower version is not supported or an option makes no sense.
    """

    def __init__(
        self,
        recipe: Recipe | RecipeFactory,
        *,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: MetricsAggregation | None = None,
        evaluate_metrics_aggr_fn: MetricsAggregation | None = None,
        replies: Replies = "weights",
        limits: Limits | None = None,
        release_rule: ReleaseRule | None = None,
        cache_folder: Path | str | None = None,
        state_folder: Path | str | None = None,
        seed: int = 0,
        selection: str | Policy = "uniform",
        gateway: Gateway | None = None,
        run_name: str | None = None,
        callbacks: Sequence[Observer] = (),
    ) -> None:
        require_supported()
        require_kinds(
            train_metrics_aggr_fn=train_metrics_aggr_fn,
            evaluate_metrics_aggr_fn=evaluate_metrics_aggr_fn,
            limits=limits,
            release_rule=release_rule,
            cache_folder=cache_folder,
            state_folder=state_folder,
            seed=seed,
            selection=selection,
            gateway=gateway,
            run_name=run_name,
            callbacks=callbacks,
        )
        if fraction_evaluate == 0.0:
            min_evaluate_nodes = 0
            log(WARNING, "fraction_evaluate is set to 0.0. Federated evaluation will be skipped.")
        self.fraction_train = fraction_train
        self.fraction_evaluate = fraction_evaluate
        self.min_train_nodes = min_train_nodes
        self.min_evaluate_nodes = min_evaluate_nodes
        self.min_available_nodes = min_available_nodes
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key = arrayrecord_key
        self.configrecord_key = configrecord_key
        self.train_metrics_aggr_fn = train_metrics_aggr_fn or average_metrics
        self.evaluate_metrics_aggr_fn = evaluate_metrics_aggr_fn or average_metrics
        self.replies = replies
        self.limits = limits
        self.release_rule = release_rule
        self.cache_folder = None if cache_folder is None else Path(cache_folder)
        self.state_folder = None if state_folder is None else Path(state_folder)
        self.seed = seed
        self.selection = policy_from(selection) if isinstance(selection, str) else selection
        self.gateway = gateway
        self.run_name = run_name
        self.callbacks = tuple(callbacks)
        self.result = Result()
        self.fairness = 1.0
        self._recipe = recipe
        self._rng = random.Random(seed)
        self._stopping = False
        self._model: Model | None = None
        require_options(self)
        tried = self.recipe(1)
        if gateway is not None:
            require_confidential(tried)
            if state_folder is not None and run_name is None:
                raise ConfigInvalid(
                    Code.CONFIG_INVALID,
                    "A confidential run that is kept in a state_folder needs a run_name.",
                )

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def stop(self) -> None:
        """End the run after the current event; for use in callbacks."""
        self._stopping = True

    def recipe(self, in_flight: int) -> Recipe:
        """Return the recipe for a number of tasks kept in flight."""
        if isinstance(self._recipe, type) or not callable(self._recipe):
            return require_recipe(self._recipe)
        return require_recipe(self._recipe(in_flight))

    def in_flight(self, num_nodes: int) -> int:
        """Return how many training tasks to keep under way with so many connected nodes."""
        wanted = max(int(num_nodes * self.fraction_train), self.min_train_nodes, 1)
        return min(num_nodes, wanted)

    def notify(self, event: Event) -> None:
        """Pass an event to the callbacks."""
        for callback in self.callbacks:
            callback(event)

    def describe(self) -> dict[str, str]:
        """Return name and options of the recipe, for the summary."""
        if callable(self._recipe):
            return {"recipe": "chosen by the number of tasks in flight"}
        return {"recipe": self._recipe.name, **self._recipe.options()}

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        log_summary(self)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Train until `num_rounds` versions were merged.

        Parameters
        ----------
        grid : Grid
            Where nodes are reached. If it has a ``clock``, the run uses that clock.
        initial_arrays : ArrayRecord
            The initial model.
        num_rounds : int (default: 3)
            Number of versions to merge.
        timeout : float (default: 3600)
            Seconds a node may take for a task, and longest time without a new version.
        train_config : ConfigRecord, optional
            Configuration sent with training tasks.
        evaluate_config : ConfigRecord, optional
            Configuration sent with evaluation tasks.
        evaluate_fn : callable, optional
            Central evaluation of the published model, called with the version and the arrays
            before the start (version 0) and after each merge.

        Returns
        -------
        Result
            The published model and all metrics by version. Also available as `result`, even
            if the run ends by an exception.

        Raises
        ------
        ConfigInvalid
            If an argument makes no sense.
        NoProgress
            If no version was merged for `timeout` seconds.
        StorageFailed
            If the saved run cannot be continued, is another one, or is in use.
        """
        require_lengths(num_rounds, timeout)
        require_kinds(
            initial_arrays=initial_arrays,
            train_config=train_config,
            evaluate_config=evaluate_config,
            evaluate_fn=evaluate_fn,
        )
        log(INFO, "Starting %s strategy:", type(self).__name__)
        log_strategy_start_info(num_rounds, initial_arrays, train_config, evaluate_config)
        self.summary()
        self._stopping, self._rng = False, random.Random(self.seed)
        self.result = Result(arrays=initial_arrays)
        clock: Clock = getattr(grid, "clock", None) or SteadyClock()
        fleet = Fleet(self._rng, selector_for(self.selection, self.seed))
        begin = clock.now()
        with self._opened() as saved:
            wait_for_nodes(grid, clock, fleet, self.min_available_nodes, timeout)
            in_flight = saved_in_flight(saved) or self.in_flight(len(fleet.connected))
            name = self.run_name or f"flower-{grid.run.run_id}"
            config = RunSettings(
                num_versions=num_rounds,
                timeout=timeout,
                train_config=train_config or ConfigRecord(),
                evaluate_config=evaluate_config or ConfigRecord(),
                task_entries={
                    RUN_ID: name,
                    WEIGHTED_BY: self.weighted_by_key,
                    REPLIES: self.replies,
                },
                configrecord_key=self.configrecord_key,
                evaluate_fn=evaluate_fn,
                rests_until_merge=self.gateway is not None or self.release_rule is not None,
                cohort=self.recipe(in_flight).parts().cohort,
            )
            self._model = Model(initial_arrays)
            intake = self._make_intake(in_flight, clock, saved)
            try:
                intake.open(name, self._model.layout, self._model.params)
                AsyncRun(self, grid, clock, intake, self._model, fleet, config, self.result).run()
            finally:
                self.result.arrays = self._model.published
                self.fairness = fleet.fairness
                self._model = None
                intake.close()
        log(INFO, "Strategy execution finished in %.2fs", clock.now() - begin)
        log(INFO, "Fairness of participation (Jain's index): %.3f", self.fairness)
        log(INFO, "Final results:")
        for line in io.StringIO(str(self.result)):
            log(INFO, "\t%s", line.strip("\n"))
        return self.result

    def _opened(self) -> AbstractContextManager[Saved | None]:
        return opened(None if self.gateway else self.state_folder)

    def _make_intake(self, in_flight: int, clock: Clock, saved: Saved | None) -> Intake:
        return make_intake(self, in_flight, clock, saved)
