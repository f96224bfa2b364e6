"""The main job: an asynchronous, confidential federation from the first client to the report."""

from __future__ import annotations

import datetime
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from flwr.app import ArrayRecord
from rich.console import Console

from asynclave.config import RunConfig
from asynclave.run.federation import Federation
from asynclave.run.history import History
from asynclave.run.outcome import Outcome
from asynclave.run.planted import canary_of
from asynclave.run.presentation import show, write
from asynclave.run.progress import LiveProgress
from asynclave.run.record import RunDirectory
from asynclave.run.resume import Interrupted, interrupted
from asynclave.run.runner import run_asynchronous, run_synchronous
from asynclave.run.trust import TrustPath
from fl_server.strategy import AsyncStrategy
from fl_server.strategy.events import Event, MergeEvent, UpdateEvent
from fl_sim.grid import VirtualGrid
from strategies.catalog import recipe_from
from strategies.confidential import refuse_leaky
from strategies.privacy.settings import refuse_unprivate
from strategies.recipe import Recipe
from strategies.screening import Limits

CANARY_LEAKED = 3
INTERRUPTED = 130


def run_job(config: RunConfig, *, plain: bool = False, as_json: bool = False) -> int:
    """Run the main job and write its directory.

    Parameters
    ----------
    config : RunConfig
        The whole configuration.
    plain : bool (default: False)
        Leave out the trust path: updates go to the strategy as plain arrays.
    as_json : bool (default: False)
        Print one JSON object to standard output and everything else to standard error.

    Returns
    -------
    int
        0; `INTERRUPTED` after Ctrl-C or SIGTERM; `CANARY_LEAKED` if the planted tensor was found
        where it must not be.

    Raises
    ------
    AsynclaveError
        If the configuration does not fit or the trust path cannot be started.
    LeakyRecipe
        If the strategy's releases could be differenced and `plain` is not set.
    """
    console = Console(stderr=as_json)
    return _run(_Job.new(config, plain, console), as_json)


def resume_job(run: Path, *, as_json: bool = False) -> int:
    """Continue a run that was cut off, from its newest version; see `run_job`.

    Parameters
    ----------
    run : Path
        Its directory, or the name of that below ``runs/``.
    as_json : bool (default: False)
        As for `run_job`.
    """
    console = Console(stderr=as_json)
    return _run(_Job.continuing(interrupted(run), console), as_json)


def _run(job: _Job, as_json: bool) -> int:
    with _quiet_libraries(), _termination_interrupts():
        try:
            job.execute()
        except KeyboardInterrupt:
            job.outcome.status = "interrupted"
        finally:
            with _interrupts_ignored():
                job.finish()
    if as_json:
        print(json.dumps(job.outcome.summary()))
    if job.outcome.status == "interrupted":
        return INTERRUPTED
    canary = job.outcome.canary
    return CANARY_LEAKED if canary is not None and not canary.passed else 0


class _Job:
    def __init__(self, outcome: Outcome, directory: RunDirectory, console: Console) -> None:
        self.outcome, self._directory, self._console = outcome, directory, console
        self._config, self._plain = outcome.config, outcome.plain
        self._recipe = _recipe(self._config)
        self._rule = self._config.release_rule if self._recipe.disjoint else None
        self._began = 0.0

    @classmethod
    def new(cls, config: RunConfig, plain: bool, console: Console) -> _Job:
        """Make the directory of a run that begins."""
        run_id = f"{datetime.datetime.now():%Y%m%d-%H%M%S-%f}-{config.strategy.name}"
        if not plain:
            refuse_leaky(_recipe(config), config.release_rule)
            refuse_unprivate(_recipe(config), config.privacy)
        directory = RunDirectory.create(config.run.output, run_id)
        directory.config(config)
        history = History(config.strategy.name)
        return cls(Outcome(run_id, config, plain, directory.path, history), directory, console)

    @classmethod
    def continuing(cls, run: Interrupted, console: Console) -> _Job:
        """Take up a run that was cut off."""
        outcome = Outcome(
            run.directory.name, run.config, run.plain, run.directory, run.history, resumed=True
        )
        job = cls(outcome, RunDirectory(run.directory), console)
        job._began = run.time
        return job

    def execute(self) -> None:
        said = "continues" if self.outcome.resumed else ""
        self._console.print(f"[bold]Asynclave[/] run {self.outcome.run_id} {said}", highlight=False)
        federation = Federation.build(self._config)
        if self._plain:
            grid = federation.grid([canary_of(self._config)], start=self._began)
            self.outcome.arrays = self._train(
                federation, grid, self.outcome.asynchronous, state_folder=self._directory.state
            )
        else:
            self._train_confidentially(federation)
            if not self.outcome.resumed:
                self._run_twin(federation)
        if self._config.run.baseline:
            self._run_baseline(federation)
        self.outcome.status = "finished"

    def finish(self) -> None:
        """Write whatever there is, then say it."""
        write(self.outcome, self._directory)
        self._directory.close()
        show(self.outcome, self._console)

    def _train_confidentially(self, federation: Federation) -> None:
        self._console.print("Starting gateway and enclave …")
        with TrustPath(self._config, self._recipe, self._directory) as trust:
            stack = trust.stack
            self._console.print(
                f"gateway {stack.address} (process {stack.gateway_pid}), "
                f"enclave process {stack.enclave_pid}: [yellow]SIMULATED TEE, opted in[/]",
                highlight=False,
            )
            grid = federation.grid(trust.mods(), trust.node_configs(), start=self._began)
            server = trust.server_config()
            look_once = _Once(trust.look_into_processes)

            def on_event(event: Event) -> None:
                if isinstance(event, UpdateEvent) and trust.canary.needles is not None:
                    look_once()

            self.outcome.arrays = self._train(
                federation,
                grid,
                self.outcome.asynchronous,
                gateway=server,
                state_folder=self._directory.path,
                also=on_event,
            )
            self._console.print("Searching files, wire and memory for the canary …")
            self.outcome.canary = trust.verdict()

    def _train(
        self,
        federation: Federation,
        grid: VirtualGrid,
        history: History,
        *,
        gateway: Path | None = None,
        state_folder: Path | None = None,
        also: Callable[[Event], None] | None = None,
    ) -> ArrayRecord:
        fleet, run = self._config.devices, self._config.run
        progress = LiveProgress(self._console, history, run.merges)

        def observe(event: Event) -> None:
            if history is self.outcome.asynchronous:
                event = replace(event, time=self._began + event.time)
                self._directory.event(event)
            if isinstance(event, MergeEvent):
                progress.refresh(event.time, event.version)
            if also is not None:
                also(event)

        strategy = AsyncStrategy(
            self._recipe,
            fraction_train=fleet.in_flight,
            fraction_evaluate=0.0,
            min_available_nodes=fleet.clients,
            limits=_limits(self._config),
            release_rule=self._rule,
            seed=run.seed,
            gateway=gateway,
            state_folder=state_folder,
            run_name=self.outcome.run_id,
        )
        with progress:
            return run_asynchronous(federation, grid, strategy, history, observe)

    def _run_twin(self, federation: Federation) -> None:
        self._console.print("The same run without the trust path, to see what it costs …")
        twin = History(f"{self._config.strategy.name}, plain")
        # The canary is part of the sealed run's training, so the twin plants it as well.
        self._train(federation, federation.grid([canary_of(self._config)]), twin)
        self.outcome.twin = twin

    def _run_baseline(self, federation: Federation) -> None:
        history = History("fedavg, synchronous")
        self.outcome.synchronous = history
        self._console.print("Synchronous FedAvg on the same devices, with as many updates …")
        run_synchronous(federation, history, self.outcome.asynchronous.accepted)


class _Once:
    """Calls its action the first time it is called itself."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def __call__(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


def _recipe(config: RunConfig) -> Recipe:
    """Return the recipe in its confidential form, so that both modes compute the same model."""
    name, size = config.strategy.name, config.strategy.buffer_size
    if name == "fedasync":
        return recipe_from(name)
    if name == "fedbuff":
        return recipe_from(name, buffer_size=size)
    return recipe_from(name, buffer_size=size, disjoint=True)


def _limits(config: RunConfig) -> Limits:
    trust = config.trust
    return Limits(trust.max_staleness, trust.max_norm, trust.max_examples)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence the log lines of Flower, which would tear the live view apart."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Let SIGTERM end the job as Ctrl-C does, so that nothing is left behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handlers(interrupt, signal.SIGTERM):
        yield


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Finish what must be finished; a second Ctrl-C is not heard."""
    with _handlers(signal.SIG_IGN, signal.SIGTERM, signal.SIGINT):
        yield


@contextmanager
def _handlers(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, *signals: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
