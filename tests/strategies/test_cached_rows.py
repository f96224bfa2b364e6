"""Caches that round or spill: what a row holds, that H is the sum of the rows, what it costs."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_protocol.codes import ConfigInvalid
from fl_server.intake.spill import SpillFiles
from strategies import (
    ACE,
    ACED,
    AREA,
    CA2FL,
    AsyncWA,
    BadOption,
    BadState,
    Engine,
    Limits,
    ReleaseRule,
    recipe_from,
)
from strategies.cached_rows import ExactRows, Memory
from strategies.drift import CachedDeltas
from strategies.rounded_rows import GROUP, BFloat16Rows, SketchedRows
from tests.strategies.helpers import accept, assert_same_state, engine_of, seeds, update, vector

KINDS = ["float32", "bfloat16", "sketch", "disk"]
CACHING = [AsyncWA, CA2FL, ACE, ACED, AREA]
SIZE = 150

few = settings(max_examples=8, deadline=None)


def stored(rows, values):
    """Write one block; return what is read back, checking it against the errors reported."""
    row, columns = rows.new(), slice(0, values.size)
    errors = rows.write(row, columns, values)
    errors = 0.0 if errors is None else errors.copy()
    back = rows.read(row, columns, np.empty_like(values)).copy()
    np.testing.assert_array_equal(back - values, errors)
    return back


def engine_with(recipe, size=SIZE, **options):
    return Engine(recipe, np.zeros(size, np.float32), disk=SpillFiles(), **options)


def random_run(engine, seed, uploads, clients=8):
    rng = np.random.default_rng(seed)
    for turn in range(uploads):
        delta = rng.normal(size=engine.params.size) * rng.lognormal(sigma=0.5)
        client, base = f"c{rng.integers(clients)}", max(0, engine.version - int(rng.integers(3)))
        examples = int(rng.integers(1, 100))
        offered = update(delta, client=client, base=base, examples=examples, id=f"{seed}-{turn}")
        engine.offer(offered, turn)
        if engine.ready(turn):
            engine.merge(turn)


def assert_total_is_the_sum_of_the_rows(cache):
    size = cache.total.size
    expected, largest = np.zeros(size), 1.0
    for entry in cache.entries.values():
        row = cache.rows.read(entry.row, slice(0, size), np.empty(size, np.float32))
        expected += entry.used * row.astype(np.float64)
        largest = max(largest, entry.used * float(np.abs(row).max()))
    np.testing.assert_allclose(cache.total, expected, rtol=1e-4, atol=1e-4 * largest)
    assert cache.weight == pytest.approx(sum(e.used for e in cache.entries.values()))


@given(seed=seeds)
def test_bfloat16_rounds_to_nearest_with_ties_to_even(seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, 1000, np.uint32)
    bits[:300] = bits[:300] & 0xFFFF0000 | 0x8000  # exactly between two
    values = bits.view(np.float32)
    values = values[np.abs(values) < 2.0**100]

    back = stored(BFloat16Rows(values.size), values)

    np.testing.assert_array_equal(back, torch.from_numpy(values).bfloat16().float().numpy())


@pytest.mark.parametrize("rows", [BFloat16Rows, SketchedRows])
@pytest.mark.parametrize("value", [2.0**100, -(2.0**100), 1e-45, -1e-40, 0.0, -0.0])
def test_every_value_an_update_may_have_stays_finite_and_near(rows, value):
    values = np.full(GROUP + 1, value, np.float32)

    back = stored(rows(values.size), values)

    assert np.abs(back - values).max() <= max(2.0**-8 * abs(value), 2.0**-133)


@few
@given(seed=seeds, size=st.integers(1, 3 * GROUP))
def test_sketch_is_within_half_a_level_of_every_value_and_keeps_zeros(seed, size):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=size) * rng.lognormal(sigma=3, size=size)).astype(np.float32)
    values[rng.random(size) < 0.3] = 0.0

    back = stored(SketchedRows(size), values)

    for start in range(0, size, GROUP):
        group = slice(start, start + GROUP)
        level = np.abs(values[group]).max() / 7
        assert np.abs(back[group] - values[group]).max() <= 0.5001 * level
    assert not back[values == 0.0].any()


def test_sketch_of_gaussian_values_loses_a_hundredth_of_their_energy():
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)

    lost = stored(SketchedRows(values.size), values) - values

    assert np.square(lost).sum() < 0.012 * np.square(values).sum()


@pytest.mark.parametrize("rows", [BFloat16Rows, SketchedRows])
def test_blocks_of_a_row_are_written_and_read_one_by_one(rows):
    values = np.random.default_rng(0).normal(size=3 * GROUP + 5).astype(np.float32)
    kept = rows(values.size)
    row = kept.new()
    blocks = [slice(2 * GROUP, values.size), slice(0, 2 * GROUP)]

    for columns in blocks:
        kept.write(row, columns, values[columns])

    whole = stored(rows(values.size), values)
    for columns in blocks:
        scratch = np.empty(columns.stop - columns.start, np.float32)
        np.testing.assert_array_equal(kept.read(row, columns, scratch), whole[columns])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", CACHING)
@few
@given(seed=seeds, uploads=st.integers(0, 60))
def test_total_is_the_sum_of_what_the_rows_hold(recipe, kind, seed, uploads):
    options = {"max_delay": 20} if recipe is ACED else {"max_age": 3.0, "max_clients": 6}
    engine = engine_with(recipe(cache=kind, **options))

    random_run(engine, seed, uploads)

    assert_total_is_the_sum_of_the_rows(engine.cache)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "sketch"])
@few
@given(seed=seeds)
def test_total_is_the_sum_of_the_rows_under_a_release_rule_too(kind, seed):
    engine = engine_with(CA2FL(3, cache=kind), release_rule=ReleaseRule(k=3))

    random_run(engine, seed, 40)

    assert_total_is_the_sum_of_the_rows(engine.cache)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=seeds)
def test_departures_return_the_total_to_zero(kind, seed):
    rng = np.random.default_rng(seed)
    cache = CachedDeltas(kind=kind).cache(SIZE, SpillFiles())
    columns, innovation, scratch = slice(0, SIZE), np.empty(SIZE, np.float32), np.empty(SIZE, "f4")
    for _ in range(50):
        client = f"c{rng.integers(6)}"
        departed = [f"c{i}" for i in range(6) if f"c{i}" != client and rng.random() < 0.1]
        cache.reserve([client])
        cache.plan([(client, float(rng.integers(1, 9)))], departed, None)
        delta = rng.normal(size=SIZE).astype(np.float32)
        cache.exchange(client, columns, delta, innovation, scratch)
        cache.commit()

    cache.plan([], list(cache.entries), None)
    cache.settle(columns, scratch)

    np.testing.assert_allclose(cache.total, 0.0, atol=1e-3)
    assert cache.weight == 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", CACHING)
@few
@given(seed=seeds, uploads=st.integers(0, 40))
def test_restored_engine_continues_bit_by_bit(recipe, kind, seed, uploads):
    first, second = engine_with(recipe(cache=kind)), engine_with(recipe(cache=kind))
    random_run(first, seed, uploads)
    random_run(second, seed + 1, 10)

    second.restore(first.state())
    for engine in (first, second):
        random_run(engine, seed + 2, 20)

    assert_same_state(first.state(), second.state())


def test_state_of_another_kind_of_cache_is_refused():
    engine = engine_with(CA2FL(cache="bfloat16"))
    random_run(engine, 0, 30)
    state = engine.state()
    state["cache"] = state["cache"].astype(np.float32)

    with pytest.raises(BadState):
        engine.restore(state)


def test_cache_on_disk_changes_no_bit():
    digests = set()
    for kind in ("float32", "disk"):
        engine = engine_with(AsyncWA(buffer_size=3, cache=kind, max_clients=5))
        random_run(engine, 7, 80)
        digests.add(engine.published.tobytes())

    assert len(digests) == 1


@pytest.mark.parametrize(
    ("kind", "per_parameter"),
    [("float32", 4.0), ("bfloat16", 2.0), ("sketch", 0.5625), ("disk", 0.0)],
)
def test_another_client_costs_as_many_bytes_as_stated(kind, per_parameter):
    size, clients = 100 * GROUP * 16, 10
    delta = np.ones(size, np.float32)
    tracemalloc.start()
    try:
        engine = engine_with(ACE(cache=kind), size)
        accept(engine, update(delta, client="first"))
        before = tracemalloc.get_traced_memory()[0]
        for index in range(clients):
            accept(engine, update(delta, client=f"c{index}", base=engine.version))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert grown / clients / size == pytest.approx(per_parameter, abs=0.01)


def test_unknown_kind_of_cache_is_refused():
    for recipe in CACHING:
        with pytest.raises(BadOption, match="float32, bfloat16, sketch, disk"):
            recipe_from(recipe.name, cache="float8")


def test_cache_on_disk_is_refused_under_a_release_rule():
    with pytest.raises(BadOption, match="in the clear"):
        engine_with(CA2FL(cache="disk"), release_rule=ReleaseRule(k=3))


def test_cache_on_disk_is_refused_without_a_place_for_it():
    with pytest.raises(BadOption, match="place on disk"):
        engine_of(CA2FL(cache="disk"))


class FullAfter:
    """Memory that gives out so many rows and then no more until it is told to."""

    def __init__(self, rows):
        self.left = rows

    def new(self, num_params):
        if not self.left:
            raise OSError("full")
        self.left -= 1
        return Memory().new(num_params)

    def free(self, row):
        self.left += 1


def test_merge_that_finds_no_room_changes_nothing_and_succeeds_later():
    space = FullAfter(2)
    engine = Engine(AsyncWA(2, disjoint=True, cache="disk"), vector(0), disk=space)
    accept(engine, update([1], client="a"), update([2], client="b"))
    for client in "cd":
        engine.offer(update([3], client=client, base=1), 0.0)
    before = engine.state()

    with pytest.raises(OSError, match="full"):
        engine.merge(0.0)

    assert_same_state(before, engine.state())
    space.left = 2
    engine.merge(0.0)
    assert list(engine.cache.entries) == ["a", "b", "c", "d"]


def test_rows_of_clients_that_left_are_given_back():
    space = FullAfter(4)
    recipe = ACE(cache="disk", max_clients=3)
    engine = Engine(recipe, vector(0), limits=Limits(max_staleness=100), disk=space)

    accept(engine, *(update([1], client=f"c{index}", base=index) for index in range(30)))

    assert len(engine.cache.entries) == 3
    assert space.left == 1


def test_files_on_disk_have_no_name_and_rows_are_used_again(tmp_path):
    files = SpillFiles(tmp_path)
    rows = [files.new(1000) for _ in range(5)]
    for index, row in enumerate(rows):
        row[:] = index
    files.free(rows[2])

    again = files.new(1000)

    assert not list(tmp_path.iterdir())
    assert again[0] == 2.0
    assert [row[999] for row in rows] == [0, 1, 2, 3, 4]


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigInvalid, match="cache_folder"):
        SpillFiles(tmp_path / "missing")


def test_disk_without_room_is_refused_by_name():
    with pytest.raises(ConfigInvalid, match="cache_folder: no room"):
        SpillFiles().new(2**45)


def test_exact_rows_are_read_in_place():
    rows = ExactRows(4, Memory())
    row = rows.new()

    assert np.shares_memory(rows.read(row, slice(1, 3), np.empty(2, np.float32)), row)
