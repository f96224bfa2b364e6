"""Fleets from a configuration: laws of speed, deaths, churn, files, who gets the slow devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.simulation.availability import Windows
from fl_sim.simulation.churn import Sessions, late_joins, stationary
from fl_sim.simulation.config import DevicesSection
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.intermittent import IntermittentFleet
from fl_sim.simulation.trace import Trace, read_trace
from fl_sim.simulation.unused_keys import is_default
from fl_sim.simulation.windows_file import read_windows


def slowest_last(fleet: Fleet, scores: Sequence[float]) -> Fleet:
    """Give the slowest devices to the clients of the highest scores; none if all score alike.

    Parameters
    ----------
    fleet : Fleet
        The devices; compute, transfer and duty of a device stay together.
    scores : sequence of float
        One score per client.

    Returns
    -------
    Fleet
    """
    if len(set(scores)) <= 1:
        return fleet
    by_speed = np.argsort(np.add(fleet.compute, fleet.transfer), kind="stable")
    device_of = np.empty(len(fleet), np.int64)
    device_of[np.argsort(np.asarray(scores), kind="stable")] = by_speed
    return replace(
        fleet,
        compute=tuple(fleet.compute[d] for d in device_of),
        transfer=tuple(fleet.transfer[d] for d in device_of),
        duty=None if fleet.duty is None else tuple(fleet.duty[d] for d in device_of),
    )


def speeds(law: str, num_clients: int, spread: float, seed: int) -> npt.NDArray[np.float64]:
    """Draw median training times with a median of one.

    Parameters
    ----------
    law : {"lognormal", "pareto", "uniform"}
        Lognormal; Pareto (Zipf-like, heavy tail of slow devices); uniform.
    num_clients : int
        Number of draws.
    spread : float
        Standard deviation of the logarithm; for Pareto the inverse of the tail exponent; for
        uniform the half-width relative to the median, below 1.
    seed : int
        Seed.

    Returns
    -------
    ndarray of float64, shape (num_clients,)
    """
    rng = np.random.default_rng((seed, num_clients))
    if law == "lognormal":
        return np.exp(spread * rng.normal(size=num_clients))
    uniform = rng.random(num_clients)
    if law == "pareto":
        return (2.0 * (1.0 - uniform)) ** -spread
    return 1.0 + spread * (2.0 * uniform - 1.0)


def deaths(num_clients: int, rate: float, horizon: float, seed: int) -> tuple[float, ...] | None:
    """Let the share `rate` of the clients die at uniformly drawn times before `horizon`."""
    if not rate:
        return None
    rng = np.random.default_rng((seed, 6))
    times = np.full(num_clients, math.inf)
    dying = rng.permutation(num_clients)[: round(rate * num_clients)]
    times[dying] = rng.random(len(dying)) * horizon
    return tuple(times.tolist())


def trace_of(config: DevicesSection) -> Trace | None:
    """Read the trace of a configuration, if it names one.

    Raises
    ------
    ConfigInvalid
        If the trace does not fit, has a column for what the configuration gives too, or none for
        what a key is about.
    """
    if config.trace is None:
        return None
    trace = read_trace(config.trace, config.clients)
    for key, given, column in (
        ("windows", config.windows, trace.duty_cycle),
        ("duty_cycle", config.duty_cycle, trace.duty_cycle),
        ("bandwidth_mbps", config.bandwidth_mbps, trace.network),
    ):
        if given is not None and column is not None:
            raise ConfigInvalid(
                Code.CONFIG_INVALID, f"devices.{key}: the trace says it already; leave one out."
            )
    cycles = trace.duty_cycle or config.duty_cycle
    if cycles is None and not is_default(config, "period"):
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            "devices.period: it is for a duty cycle, which the trace does not have; leave it out.",
        )
    return trace


def windows_of(config: DevicesSection) -> Windows | None:
    """Read the windows of a configuration, if it names a file of them.

    Raises
    ------
    ConfigInvalid
        If the file does not fit.
    """
    if config.windows is None:
        return None
    return read_windows(config.windows, config.clients, config.windows_period)


def sessions_of(config: DevicesSection, unit: float, horizon: float, seed: int) -> Sessions | None:
    """Draw who joins, leaves and comes back when; None if all clients are there from the start.

    Parameters
    ----------
    config : DevicesSection
        The section ``[devices]``.
    unit : float
        Duration of a median task in seconds.
    horizon : float
        Seconds over which late joins are spread.
    seed : int
        Seed.
    """
    count, joins = config.clients, np.zeros(config.clients)
    if config.session is None or config.absence is None:
        if not config.join_rate:
            return None
        return Sessions(late_joins(joins, config.join_rate, horizon, seed), seed=seed)
    session, absence = config.session * unit, config.absence * unit
    joins = stationary(count, session, absence, seed)
    return Sessions(late_joins(joins, config.join_rate, horizon, seed), session, absence, seed)


def fleet_from(
    config: DevicesSection,
    *,
    model_bytes: int,
    virtual_time: float,
    seed: int,
    scores: Sequence[float] | None = None,
) -> Fleet:
    """Build the devices of a configuration.

    Parameters
    ----------
    config : DevicesSection
        The section ``[devices]``.
    model_bytes : int
        Size of one download, and of one upload.
    virtual_time : float
        Length of the run in median task durations; deaths and late joins are spread over it.
    seed : int
        Seed of speeds, bandwidths, jitter, failures, deaths and churn.
    scores : sequence of float, optional
        One score per client: the higher, the slower its device.

    Raises
    ------
    ConfigInvalid
        If the trace or the windows do not fit.
    """
    count = config.clients
    if (trace := trace_of(config)) is not None:
        compute, network, duty = trace.compute, trace.network, trace.duty_cycle
    else:
        draws = config.task_seconds * speeds(config.speed, count, config.sigma, seed)
        compute, network, duty = tuple(draws.tolist()), None, None
    if network is None and config.bandwidth_mbps is not None:
        noise = np.random.default_rng((seed, 7)).normal(size=count)
        rates = config.bandwidth_mbps * np.exp(config.bandwidth_sigma * noise)
        network = tuple(rates.tolist())
    if duty is None and config.duty_cycle is not None:
        duty = (config.duty_cycle,) * count
    transfer = tuple(16.0e-6 * model_bytes / rate for rate in network or ())
    fleet = Fleet(
        compute,
        transfer or (0.0,) * count,
        duty,
        jitter=config.jitter,
        dropout=config.dropout,
        seed=seed,
    )
    if scores is not None:
        fleet = slowest_last(fleet, scores)
    unit = fleet.median_task
    horizon = virtual_time * unit
    dies_at = deaths(count, config.death_rate, horizon, seed)
    fleet = replace(fleet, period=config.period * unit, dies_at=dies_at)
    windows, sessions = windows_of(config), sessions_of(config, unit, horizon, seed)
    if windows is None and sessions is None:
        return fleet
    given = {field.name: getattr(fleet, field.name) for field in fields(fleet) if field.init}
    return IntermittentFleet(**given, windows=windows, sessions=sessions)
