"""Async-WA in both forms, worked out by hand and against a plain float64 transcription."""

import numpy as np
import pytest

from strategies import AsyncWA, Engine, Limits
from strategies.recipes.async_wa import buffer_size_for
from tests.strategies.helpers import accept, engine_of, merge_of, update


def test_sliding_window_follows_the_rule_upload_by_upload():
    # b = 0.5: q_a = sqrt 4 = 2, q_b = sqrt 9 = 3; K = 2
    engine = engine_of(AsyncWA(buffer_size=2))

    # r = 1, H / P = 1, window mean 1: x = (1 + 1) / 2
    first = merge_of(engine, update([1], client="a", base=0, examples=4))
    np.testing.assert_allclose(first.params, [1.0], rtol=1e-6)

    # r = 2, H / P = 8 / 5, freshness (1 + 1 / 2) ** -0.5: window mean 1.5505103
    second = merge_of(engine, update([2], client="b", base=0, examples=9))
    np.testing.assert_allclose(second.params, [2.5752551], rtol=1e-6)

    # r = 3 - 1 = 2, H / P = 12 / 5, window of b's 2 and a's 2
    third = merge_of(engine, update([3], client="a", base=1, examples=4))
    np.testing.assert_allclose(third.params, [4.7752551], rtol=1e-6)

    np.testing.assert_allclose(engine.published, [(1 + 2.5752551 + 4.7752551) / 3], rtol=1e-6)


def test_disjoint_buffers_add_cached_mean_and_innovations_then_update_the_cache():
    engine = engine_of(AsyncWA(buffer_size=2, disjoint=True))

    # nothing cached: (2 * 1 + 3 * 2) / 5
    first = merge_of(
        engine, update([1], client="a", examples=4), update([2], client="b", examples=9)
    )
    np.testing.assert_allclose(first.params, [1.6], rtol=1e-6)

    # cached mean 8 / 5; r_a = 3 - 1, r_c = 5 with tau K / n = 2 / 3:
    # (2 * 2 + 0.7745967 * 5) / 2.7745967 = 2.8375237
    second = merge_of(
        engine,
        update([3], client="a", base=1, examples=4),
        update([5], client="c", base=0, examples=1),
    )
    np.testing.assert_allclose(second.params, [1.6 + 1.6 + 2.8375237], rtol=1e-6)

    # cached mean (2 * 3 + 3 * 2 + 1 * 5) / 6; both repeat themselves: nothing is new
    third = merge_of(
        engine,
        update([3], client="a", base=2, examples=4),
        update([5], client="c", base=2, examples=1),
    )
    np.testing.assert_allclose(third.params - second.params, [17 / 6], rtol=1e-5)


def test_without_drift_correction_the_window_of_raw_updates_is_averaged():
    # weights sqrt 1 and sqrt 9 * (1 + 1 / 2) ** -0.5; x = 4 / 2, then + mean / 2
    engine = engine_of(AsyncWA(buffer_size=2, drift_correction=False))

    accept(engine, update([4], client="a"), update([8], client="b", examples=9))

    late = 3 * 1.5**-0.5
    np.testing.assert_allclose(engine.params, [2 + (4 + late * 8) / (1 + late) / 2], rtol=1e-6)


def transcription(uploads, size, k, disjoint):
    """The rule as written down, client by client, in float64."""
    x, version = np.zeros(size), 0
    h, q, heard, window, buffer, published, merges = {}, {}, set(), [], [], None, 0

    def mean():
        weight = sum(q[c] for c in h)
        return sum(q[c] * h[c] for c in h) / weight if h else np.zeros(size)

    for client, base, delta, n in uploads:
        heard.add(client)
        buffer.append((client, base, delta, n))
        if disjoint and len(buffer) < k:
            continue
        scale = (k if disjoint else 1) / len(heard)
        innovations = [
            (d - h.get(c, 0.0), n**0.5 * (1 + (version - b) * scale) ** -0.5)
            for c, b, d, n in buffer
        ]
        if disjoint:
            for c, _, _, m in buffer:
                q[c] = m**0.5 if c in h else q.get(c)
            before = mean()
            used = innovations
        for c, _, d, m in buffer:
            h[c], q[c] = d, m**0.5
        if not disjoint:
            window = [*window, *innovations][-k:]
            before, used = mean(), window
        total = sum(w for _, w in used)
        step = before + sum(w * r for r, w in used) / total
        x = x + (step if disjoint else step / k)
        version, merges, buffer = version + 1, merges + 1, []
        rate = 1 / min(merges, max(1.0, 2 * len(heard) / (k if disjoint else 1)))
        published = x if published is None else published + rate * (x - published)
    return x, published


@pytest.mark.parametrize("disjoint", [False, True])
def test_long_run_matches_a_plain_transcription(disjoint):
    rng = np.random.default_rng(5)
    size, k = 7, 4
    engine = Engine(
        AsyncWA(buffer_size=k, disjoint=disjoint),
        np.zeros(size, np.float32),
        limits=Limits(max_staleness=1000),
    )
    uploads, started = [], dict.fromkeys("abcdefghij", 0)
    for _ in range(200):
        client = str(rng.choice([c for c in started if started[c] is not None]))
        delta = rng.normal(size=size).astype(np.float32)
        uploads.append((client, started[client], delta, int(rng.integers(1, 100))))
        accept(engine, update(delta, client=client, base=started[client], examples=uploads[-1][3]))
        started[client] = None
        if engine.pending == 0:
            for name in started:
                if started[name] is None:
                    started[name] = engine.version

    x, published = transcription(uploads, size, k, disjoint)

    np.testing.assert_allclose(engine.params, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(engine.published, published, rtol=1e-4, atol=1e-4)


def test_last_word_of_a_client_in_one_buffer_is_from_its_newest_base():
    for order in ((0, 1), (1, 0)):
        engine = engine_of(AsyncWA(buffer_size=2, disjoint=True, volume_exponent=0.0))
        accept(engine, update([0], client="b"), update([0], client="c"))
        words = [update([10], client="a", base=0), update([4], client="a", base=1)]
        accept(engine, *(words[index] for index in order))

        before = engine.params.copy()
        accept(engine, update([0], client="b", base=2), update([0], client="c", base=2))

        np.testing.assert_allclose(engine.params - before, [4 / 3], rtol=1e-5)


def test_all_updates_of_a_client_in_one_buffer_are_compared_with_its_word_before_it():
    recipe = AsyncWA(buffer_size=2, disjoint=True, volume_exponent=0.0, staleness_exponent=0.0)
    engine = engine_of(recipe)
    accept(engine, update([4], client="a"), update([0], client="b"))
    accept(engine, update([0], client="b", base=1), update([0], client="c", base=1))
    before = engine.params.copy()

    # r = 6 - 4 and 8 - 4; cached mean 4 / 3
    accept(engine, update([6], client="a", base=1), update([8], client="a", base=2))

    np.testing.assert_allclose(engine.params - before, [3 + 4 / 3], rtol=1e-5)


def test_cache_that_was_emptied_has_no_mean():
    recipe = AsyncWA(buffer_size=2, disjoint=True, max_clients=2)
    engine = engine_of(recipe)

    for base in range(40):
        merge = merge_of(
            engine,
            update([1], client=f"even-{base}", base=base, examples=2 + base),
            update([1], client=f"odd-{base}", base=base, examples=3 + 2 * base),
        )

        np.testing.assert_allclose(merge.params, [base + 1], rtol=1e-5)


def test_changed_number_of_examples_changes_the_cached_weight():
    engine = engine_of(AsyncWA(buffer_size=2, disjoint=True, volume_exponent=1.0))
    accept(engine, update([6], client="a", examples=1), update([0], client="b", examples=1))
    accept(
        engine,
        update([6], client="a", base=1, examples=2),
        update([0], client="b", base=1, examples=1),
    )
    before = engine.params.copy()

    accept(
        engine,
        update([6], client="a", base=2, examples=2),
        update([0], client="b", base=2, examples=1),
    )

    np.testing.assert_allclose(engine.params - before, [6 * 2 / 3], rtol=1e-5)


def test_window_size_is_a_sixth_of_the_tasks_in_flight():
    assert [buffer_size_for(n) for n in (1, 25, 60)] == [1, 4, 10]
