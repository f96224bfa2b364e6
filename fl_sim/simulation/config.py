"""What a simulation is made of: the sections of its TOML file, each key with a default."""

from __future__ import annotations

import hashlib
import tomllib
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.complaints import complaints_of
from fl_sim.simulation import unused_keys
from fl_sim.simulation.trace import trace_digest
from fl_sim.simulation.windows_file import windows_digest

# Raised when the results of a valid configuration change: of every recipe, or of one.
_REVISION = 6
_REVISIONS = {"async-wa": 1}
_MILLION = 1_000_000
_MOST_CLIENTS = 10_000_000
# Younger than results on disk, whose keys stay the same as long as these have their defaults.
_UNSET = {
    "windows": None,
    "windows_period": None,
    "session": None,
    "absence": None,
    "join_rate": 0.0,
}
# Where the general default does not fit: a spread of 1.2 is too wide for a uniform law, and a trace
# says itself which device is whose.
_DEFAULTS_BY_SPEED: dict[str, dict[str, Any]] = {
    "uniform": {"sigma": 0.5},
    "trace": {"slow_hold_rare": False},
}


def _without_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold a NUL character")
    return path


_Path = Annotated[Path, Field(strict=False), AfterValidator(_without_nul)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """Which data, and how it is split over the clients."""

    name: str = "mnist-5k"
    partition: Literal["dirichlet", "natural", "iid"] = "dirichlet"
    alpha: float = Field(default=0.3, ge=1e-6, le=1e9)


class DevicesSection(_Section):
    """The simulated devices.

    `in_flight` is a number of clients when whole (``25``) and a share of them otherwise
    (``0.25``, ``1.0``). `sigma` is the spread of the law of speeds, see
    `fl_sim.simulation.fleet_builder.speeds`; 0.5 by default if the speed is uniform.
    `slow_hold_rare` gives the slowest devices to the clients with most of the rare classes; by
    default not those of a trace, whose rows name their clients. `death_rate` is the share of the
    clients that leave for good during the run, `dropout` the probability that a task breaks off.
    With `bandwidth_mbps`, the median of a lognormal law, a task takes the time to download and
    upload the model too. `duty_cycle` is the share of each `period` (in median tasks) in which a
    client is online.

    In place of a duty cycle, the file `windows` says when each client is online, in seconds, and
    `windows_period` after how long that comes again; see `fl_sim.simulation.windows_file`.
    `session` and `absence` are the mean lengths, in median tasks, of the times for which clients
    stay and are gone; `join_rate` is the share of the clients that join during the run.
    """

    clients: int = Field(default=60, ge=1, le=_MOST_CLIENTS)
    in_flight: int | float = Field(default=1.0, gt=0)
    speed: Literal["lognormal", "pareto", "uniform", "trace"] = "lognormal"
    sigma: float = Field(default=1.2, ge=0, le=10)
    jitter: float = Field(default=0.2, ge=0, le=10)
    slow_hold_rare: bool = True
    death_rate: float = Field(default=0.0, ge=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    task_seconds: float = Field(default=1.0, ge=1e-9, le=1e9)
    bandwidth_mbps: float | None = Field(default=None, ge=1e-9, le=1e9)
    bandwidth_sigma: float = Field(default=0.5, ge=0, le=10)
    duty_cycle: float | None = Field(default=None, ge=1e-6, le=1)
    period: float = Field(default=10.0, ge=1e-6, le=1e9)
    windows: _Path | None = None
    windows_period: float | None = Field(default=None, ge=1e-6, le=1e9)
    session: float | None = Field(default=None, ge=0.01, le=1e9)
    absence: float | None = Field(default=None, ge=0.01, le=1e9)
    join_rate: float = Field(default=0.0, ge=0, le=1)
    trace: _Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_its_speed(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(speed := given.get("speed"), str):
            return {**_DEFAULTS_BY_SPEED.get(speed, {}), **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> DevicesSection:
        if (self.speed == "trace") != (self.trace is not None):
            raise ValueError('speed = "trace" and the key trace = "FILE" go together')
        if self.speed == "uniform" and self.sigma >= 1:
            raise ValueError("sigma must be below 1 when the speed is uniform")
        if isinstance(self.in_flight, float) and self.in_flight > 1:
            raise ValueError("in_flight is a whole number of clients or a share of at most 1.0")
        if self.num_in_flight > self.clients:
            raise ValueError(f"in_flight exceeds the {self.clients} clients")
        self._check_presence()
        unused_keys.check_devices(self)
        return self

    def _check_presence(self) -> None:
        if (self.session is None) != (self.absence is None):
            raise ValueError("session and absence go together")
        if self.windows is None and self.windows_period is not None:
            raise ValueError("windows_period is for windows: name their file")
        if self.windows is not None and self.duty_cycle is not None:
            raise ValueError(
                "windows and duty_cycle both say when clients are online; leave one out"
            )
        if self.windows is not None and self.join_rate:
            raise ValueError("windows say already who joins later; leave join_rate out")

    @property
    def num_in_flight(self) -> int:
        """Number of clients training at the same time."""
        if isinstance(self.in_flight, int):
            return self.in_flight
        return max(1, round(self.in_flight * self.clients))


class TrainSection(_Section):
    """Local training on each client.

    `momentum`, `nesterov`, `weight_decay` and `proximal` are those of `fl_client.optimiser.SGD`.
    `backend` pins how cohorts are trained, see `fl_sim.cohort`; results of different backends
    differ in float rounding.
    """

    model: str = "mlp"
    hidden: int = Field(default=64, ge=1, le=_MILLION)
    local_steps: int = Field(default=5, ge=1, le=_MILLION)
    batch_size: int = Field(default=32, ge=1, le=_MILLION)
    lr: float = Field(default=0.05, gt=0, le=1e6)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0, le=1e6)
    proximal: float = Field(default=0.0, ge=0, le=1e6)
    backend: Literal["auto", "numpy", "vmap", "flat"] = "auto"
    cohort_size: int = Field(default=16, ge=1, le=1024)

    @model_validator(mode="after")
    def _consistent(self) -> TrainSection:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum: set it above 0")
        return self


class StrategySection(_Section):
    """The aggregation recipe; `options` by recipe name, as ``strategies.recipe_from`` takes them.

    `buffer_size` is for recipes that have this option and no entry of their own for it.
    """

    name: str = "async-wa"
    buffer_size: int | None = Field(default=None, ge=1, le=_MOST_CLIENTS)
    max_staleness: int | None = Field(default=None, ge=0, le=2**53)
    options: dict[str, dict[str, bool | int | float | str]] = {}


class DispatchSection(_Section):
    """Which idle clients get the next tasks; see ``strategies.selection``.

    It matters only while fewer tasks are in flight than clients could work. `smoothing` is the
    weight of the newest duration in a client's expected duration, `recent` the time over which
    utilisation is averaged, in mean task durations; `options` by policy name.
    """

    policy: str = "uniform"
    smoothing: float = Field(default=0.3, gt=0, le=1)
    recent: float = Field(default=10.0, ge=1e-6, le=1e9)
    options: dict[str, dict[str, float]] = {}


class RunSection(_Section):
    """How long, and from which seed on. Times are in median task durations.

    `workers` processes run seeds side by side, each with one; results are the same.
    `cache_folder` is where recipes with ``cache = "disk"`` keep clients' last deltas; the system's
    folder for temporary files if unset.
    """

    virtual_time: float = Field(default=40.0, ge=1e-6, le=1e9)
    target_accuracy: float | None = Field(default=None, gt=0, lt=1)
    evaluate_every: float = Field(default=1.0, ge=1e-6, le=1e9)
    max_updates: int | None = Field(default=None, ge=1, le=2**53)
    first_seed: int = Field(default=1, ge=0, le=2**53)
    seeds: int = Field(default=5, ge=1, le=_MILLION)
    workers: int = Field(default=1, ge=1, le=256)
    output: _Path = Path("runs/simulations")
    cache_folder: _Path | None = None

    @property
    def all_seeds(self) -> range:
        """The seeds of the sweep."""
        return range(self.first_seed, self.first_seed + self.seeds)


class SimulationConfig(_Section):
    """The whole configuration of a simulation."""

    data: DataSection = DataSection()
    devices: DevicesSection = DevicesSection()
    train: TrainSection = TrainSection()
    strategy: StrategySection = StrategySection()
    dispatch: DispatchSection = DispatchSection()
    run: RunSection = RunSection()

    def key(self) -> str:
        """Return a digest of everything that a strategy's results depend on, but for the seed.

        Of a trace and of windows it covers what the file holds now, not where it lies.

        Raises
        ------
        ConfigInvalid
            If one of them cannot be read.
        """
        content = self.model_dump(mode="json", exclude={"strategy": {"name"}, "run": _NO_RESULT})
        content["revision"] = _REVISION
        if self.strategy.name in _REVISIONS:
            content["recipe_revision"] = _REVISIONS[self.strategy.name]
        if self.devices.trace is not None:
            content["devices"]["trace"] = trace_digest(self.devices.trace)
        if self.devices.windows is not None:
            content["devices"]["windows"] = windows_digest(self.devices.windows)
        for name, value in _UNSET.items():
            if content["devices"][name] == value:
                del content["devices"][name]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


_NO_RESULT = {"first_seed", "seeds", "workers", "output", "cache_folder"}


ConfigSource: TypeAlias = SimulationConfig | str | PathLike[str] | None
"""A configuration, the path of a TOML file, or None for the defaults."""


def load_config(
    source: ConfigSource, overrides: dict[str, dict[str, Any]] | None = None
) -> SimulationConfig:
    """Read a TOML file; overrides win, `None` values among them are ignored.

    Parameters
    ----------
    source : SimulationConfig, str, PathLike or None
        The file, or what one has been read to; None for the defaults.
    overrides : dict, optional
        Section name to values.

    Raises
    ------
    ConfigInvalid
        If the file cannot be read, or a key or value does not fit.
    """
    content = _content(source)
    for section, values in (overrides or {}).items():
        given = {key: value for key, value in values.items() if value is not None}
        if given and isinstance(content.setdefault(section, {}), dict):
            content[section].update(given)
    try:
        return SimulationConfig.model_validate(content)
    except ValidationError as error:
        raise _invalid(complaints_of(error)) from None


def _content(source: ConfigSource) -> dict[str, Any]:
    if source is None:
        return {}
    if isinstance(source, SimulationConfig):
        return source.model_dump(exclude_unset=True)
    if not isinstance(source, str | PathLike):
        raise _invalid(
            "A configuration is a SimulationConfig or the path of a TOML file, "
            f"not {type(source).__name__}."
        )
    try:
        return tomllib.loads(Path(source).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _invalid(f"{source} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{source} is not valid TOML: {error}.") from None


def _invalid(sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, sentence)
