"""Selection policies in the drop-in strategies, on virtual time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from flwr.app import Context, Message

from fl_server.strategy import AsyncStrategy, AsyncWA, FedAsync, FedBuff
from fl_sim.failures import Failures
from fl_sim.grid import FIRST_NODE_ID
from strategies.errors import UnknownPolicy
from strategies.selection import Estimates, jain_index
from tests.support.federation import Recorder, client_app, initial_arrays, virtual_grid

POLICIES = ["speed", "load-aware", "auction"]
NODES = 12


def trained(make: type[AsyncStrategy] = FedAsync, rounds: int = 60, **options: object) -> Recorder:
    """Run with a quarter of the nodes at work."""
    recorder = Recorder()
    grid_options = {key: options.pop(key) for key in ("app", "failures") if key in options}
    timeout = options.pop("timeout", 3600.0)
    strategy = make(fraction_train=0.25, fraction_evaluate=0.0, callbacks=[recorder], **options)
    grid = virtual_grid(NODES, **grid_options)
    strategy.start(grid, initial_arrays(), num_rounds=rounds, timeout=timeout)
    counts = Counter(event.client for event in recorder.updates if event.accepted)
    assert strategy.fairness == pytest.approx(
        jain_index([*counts.values(), *[0] * (NODES - len(counts))])
    )
    return recorder


def accepted_by(recorder: Recorder) -> Counter[int]:
    return Counter(int(e.client) - FIRST_NODE_ID for e in recorder.updates if e.accepted)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [AsyncWA, FedBuff, FedAsync])
def test_a_policy_by_name_is_followed_repeatably(make: type[AsyncStrategy], policy: str) -> None:
    one, other = (trained(make, 30, selection=policy) for _ in range(2))
    uniform = trained(make, 30)
    assert one.updates == other.updates
    assert one.merges[-1].digest == other.merges[-1].digest != uniform.merges[-1].digest


def test_uniform_is_the_default() -> None:
    assert trained().updates == trained(selection="uniform").updates


def test_an_auction_asks_everybody_once_and_then_the_fastest() -> None:
    counts = accepted_by(trained(selection="auction"))
    assert set(counts) == set(range(NODES))
    busiest = {node for node, _ in counts.most_common(4)}
    assert sum(counts[node] for node in busiest) > 0.7 * sum(counts.values())
    assert jain_index(counts.values()) < jain_index(accepted_by(trained()).values())


@pytest.mark.parametrize(("policy", "most"), [("speed", 12), ("auction", 1)])
def test_a_node_that_always_fails_is_not_taken_for_the_fastest(policy: str, most: int) -> None:
    def fail(message: Message, context: Context, call_next: object) -> Message:
        if context.node_id == FIRST_NODE_ID + 3:
            raise RuntimeError("out of memory")
        return call_next(message, context)

    recorder = trained(selection=policy, app=client_app(mods=[fail]))
    attempts = sum(event.client == str(FIRST_NODE_ID + 3) for event in recorder.updates)
    assert 1 <= attempts <= most


def test_a_node_whose_reply_was_lost_is_asked_less_in_an_auction() -> None:
    recorder = trained(
        selection="auction", rounds=100, failures=Failures(silent=0.1, seed=1), timeout=10.0
    )
    lost = [event for event in recorder.updates if not event.accepted]
    assert {event.code for event in lost} == {"CLIENT_FAILED"}
    first = lost[0].client
    assert sum(event.client == first for event in recorder.updates) < 100 / NODES


def test_a_node_that_reports_a_high_load_is_asked_less() -> None:
    def report(message: Message, context: Context, call_next: object) -> Message:
        reply = call_next(message, context)
        half = (context.node_id - FIRST_NODE_ID) % 2
        reply.content["metrics"]["utilisation"] = 99.0 * half
        return reply

    app = client_app(mods=[report])
    counts = accepted_by(trained(selection="load-aware", rounds=200, app=app))
    loaded = sum(count for node, count in counts.items() if node % 2)
    assert loaded < 0.3 * sum(counts.values())


def test_a_policy_of_ones_own_sees_node_ids() -> None:
    @dataclass(frozen=True)
    class EvenNodes:
        name: str = "even-nodes"

        def weights(self, known: Estimates) -> np.ndarray:
            return np.array([1.0 if node % 2 == 0 else 1e-12 for node in known.clients])

    recorder = trained(selection=EvenNodes())
    assert {int(event.client) % 2 for event in recorder.updates} == {0}


def test_an_unknown_policy_is_refused_at_once() -> None:
    with pytest.raises(UnknownPolicy, match="load-aware"):
        AsyncWA(selection="fastest")
