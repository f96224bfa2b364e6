"""The policy printed in the page on client selection works as it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fl_server.strategy import FedAsync
from fl_sim.grid import FIRST_NODE_ID
from tests.support.federation import Recorder, initial_arrays, virtual_grid

PAGE = Path(__file__).parents[2] / "docs" / "dispatch.md"


def test_a_policy_of_ones_own_asks_the_cheapest_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("priced")
    monkeypatch.setitem(sys.modules, "priced", module)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1]
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    prices = {FIRST_NODE_ID + number: 9.0 - number for number in range(8)}
    recorder = Recorder()

    strategy = FedAsync(
        fraction_train=0.25,
        fraction_evaluate=0.0,
        selection=module.Priced(prices),
        callbacks=[recorder],
    )
    strategy.start(virtual_grid(8), initial_arrays(), num_rounds=20)

    asked = {int(event.client) - FIRST_NODE_ID for event in recorder.updates}
    assert asked <= {5, 6, 7}
