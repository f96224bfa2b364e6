"""Receiving into the engine's own rows."""

import numpy as np

from strategies import Accepted, ClientUpdate, Engine, FedBuff, Reject
from tests.strategies.helpers import accept, refusal, update, vector


def leased_update(engine, values, client):
    row = engine.lease()
    row[:] = values
    return ClientUpdate(client, 0, row, 1, f"of-{client}")


def test_leased_row_is_stored_without_a_copy():
    engine = Engine(FedBuff(2), np.zeros(2, np.float32))
    row = engine.lease()

    accept(engine, leased_update(engine, [1, 2], "a"))

    assert np.shares_memory(row, engine.slab.take())
    assert not np.shares_memory(row, engine.lease())


def test_refused_row_is_leased_again():
    engine = Engine(FedBuff(2), np.zeros(2, np.float32))
    row = engine.lease()

    assert refusal(engine, leased_update(engine, [np.nan, 0], "a")) is Reject.NONFINITE

    assert np.shares_memory(row, engine.lease())
    assert engine.pending == 0


def test_row_that_is_not_leased_is_copied():
    engine = Engine(FedBuff(2, staleness_exponent=0.0), np.zeros(2, np.float32))
    delta = vector(1, 2)
    engine.offer(update(delta, client="a"), 0.0)
    delta[:] = 99

    engine.offer(update([0, 0], client="b"), 0.0)

    np.testing.assert_array_equal(engine.merge(0.0).params, vector(0.5, 1))


def test_reversed_view_of_the_leased_row_is_copied_as_it_reads():
    engine = Engine(FedBuff(1), np.zeros(2, np.float32))
    row = engine.lease()
    row[:] = [1, 2]

    engine.offer(ClientUpdate("a", 0, row[::-1], 1, "u"), 0.0)

    np.testing.assert_array_equal(engine.merge(0.0).params, vector(2, 1))


def test_lease_held_while_others_are_stored_keeps_their_content_and_its_own():
    engine = Engine(FedBuff(3), np.zeros(1, np.float32))
    row = engine.lease()
    row[:] = 30
    engine.offer(update([3], client="a"), 0.0)
    row[:] = np.nan
    engine.offer(update([6], client="b"), 0.0)
    row[:] = 9

    engine.offer(ClientUpdate("c", 0, row, 1, "late"), 0.0)

    np.testing.assert_array_equal(engine.merge(0.0).params, vector(6))


def test_lease_taken_before_a_merge_is_still_good_after_it():
    engine = Engine(FedBuff(1), np.zeros(1, np.float32))
    engine.offer(update([1], client="a"), 0.0)
    row = engine.lease()
    row[:] = 5
    engine.merge(0.0)

    answer = engine.offer(ClientUpdate("b", 1, row, 1, "b"), 0.0)

    assert isinstance(answer, Accepted)
    np.testing.assert_array_equal(engine.merge(0.0).params, vector(6))


def test_lease_outlives_merges_of_other_updates():
    engine = Engine(FedBuff(2), np.zeros(1, np.float32))
    row = engine.lease()
    accept(engine, update([1], client="a"), update([1], client="b"))
    row[:] = 5

    engine.offer(update([3], client="c", base=1), 0.0)
    engine.offer(ClientUpdate("d", 1, row, 1, "d"), 0.0)

    np.testing.assert_array_equal(engine.merge(0.0).params, vector(1 + 4))


def test_broadcast_of_the_leased_row_is_copied_as_it_reads():
    engine = Engine(FedBuff(1), np.zeros(2, np.float32))
    row = engine.lease()
    row[:] = [1, 2]

    engine.offer(ClientUpdate("a", 0, np.broadcast_to(row[:1], 2), 1, "u"), 0.0)

    np.testing.assert_array_equal(engine.merge(0.0).params, vector(1, 1))


def test_poison_in_an_unused_row_never_reaches_the_model():
    engine = Engine(FedBuff(2), np.zeros(1, np.float32))
    engine.lease()[:] = np.nan

    accept(engine, update([1], client="a"), update([3], client="b"))

    np.testing.assert_array_equal(engine.params, vector(2))
