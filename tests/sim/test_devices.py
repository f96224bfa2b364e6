from __future__ import annotations

import numpy as np
import pytest

from fl_sim.devices import lognormal_devices
from fl_sim.failures import Failures, Fate


def test_durations_do_not_depend_on_the_order_of_asking() -> None:
    devices = lognormal_devices(4, seed=5)
    pairs = [(client, task) for client in range(4) for task in range(5)]
    forwards = {pair: devices.duration(*pair) for pair in pairs}
    backwards = {pair: devices.duration(*pair) for pair in reversed(pairs)}
    assert forwards == backwards
    assert len(set(forwards.values())) == len(pairs)


def test_speeds_have_the_median_and_spread_asked_for() -> None:
    seconds = np.log(lognormal_devices(4000, median=2.0, sigma=1.2, seed=1).seconds)
    assert np.median(seconds) == pytest.approx(np.log(2.0), abs=0.1)
    assert np.std(seconds) == pytest.approx(1.2, abs=0.1)


def test_clients_with_the_highest_scores_are_the_slowest() -> None:
    devices = lognormal_devices(5, seed=2, slowness=[0.1, 0.5, 0.0, 0.3, 0.2])
    assert list(np.argsort(devices.seconds)) == [2, 0, 4, 3, 1]


def test_refuses_scores_for_another_number_of_clients() -> None:
    with pytest.raises(ValueError, match="2 scores for 3 clients"):
        lognormal_devices(3, slowness=[0.1, 0.2])


def test_tasks_fail_at_the_rates_asked_for() -> None:
    failures = Failures(drop_out=0.3, silent=0.1, seed=4)
    fates = [failures.fate(client, task)[0] for client in range(40) for task in range(100)]
    assert fates.count(Fate.DROPS_OUT) / 4000 == pytest.approx(0.3, abs=0.03)
    assert fates.count(Fate.GOES_SILENT) / 4000 == pytest.approx(0.1, abs=0.03)


def test_refuses_failure_rates_that_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        Failures(drop_out=0.8, silent=0.3)
