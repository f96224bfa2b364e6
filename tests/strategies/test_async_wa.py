"""Async-WA in both forms, worked out by hand and against a plain float64 transcription."""

from functools import partial
from heapq import heapify, heapreplace

import numpy as np
import pytest

from strategies import AsyncWA, Engine, Limits
from strategies.recipes.async_wa import buffer_size_for
from strategies.roles import Roles
from tests.strategies.helpers import SCALE_FREE, accept, engine_of, merge_of, update

linear = partial(AsyncWA, adaptive=False, volume_exponent=0.5)


def test_sliding_window_follows_the_rule_upload_by_upload():
    # b = 0.5: q_a = sqrt 4 = 2, q_b = sqrt 9 = 3; K = 2
    engine = engine_of(linear(buffer_size=2))

    # r = 1, H / P = 1, window mean 1: x = (1 + 1) / 2
    first = merge_of(engine, update([1], client="a", base=0, examples=4))
    np.testing.assert_allclose(first.params, [1.0], rtol=1e-6)

    # r = 2, H / P = 8 / 5, freshness (1 + 1 / 2) ** -0.5: window mean 1.5505103
    second = merge_of(engine, update([2], client="b", base=0, examples=9))
    np.testing.assert_allclose(second.params, [2.5752551], rtol=1e-6)

    # r = 3 - 1 = 2, H / P = 12 / 5, window of b's 2 and a's 2
    third = merge_of(engine, update([3], client="a", base=1, examples=4))
    np.testing.assert_allclose(third.params, [4.7752551], rtol=1e-6)

    # a fifth of three versions: the newest alone
    np.testing.assert_array_equal(engine.published, third.params)


def test_step_is_normalised_and_divided_by_the_uploads_of_a_round():
    # K = 1: decay 0.9, a round of at least 12 uploads; with one client q does not matter
    engine = engine_of(AsyncWA(buffer_size=1), 0.0, 0.0)

    # u = 2 D = (4, -2) / 1000; v = 0.1 u^2, rms before 0, sqrt(1 - 0.9) / sqrt(0.1) = 1;
    # twice 0.06 / 12, for the gain is 2 at first
    first = merge_of(engine, update([0.002, -0.001], base=0))
    np.testing.assert_allclose(first.params, [0.01, -0.01], rtol=1e-5)

    # u = D + (D - h) = (2, -1): v = (0.9 * 1.6 + 0.1 * 4, 0.9 * 0.4 + 0.1) = (1.84, 0.46);
    # floor = 0.1 * sqrt((1.6 + 0.4) / 2) = 0.1, all in thousandths and their squares;
    # rate = 0.01 * sqrt(1 - 0.81)
    second = merge_of(engine, update([0.002, -0.001], base=1))
    rate = 0.01 * 0.19**0.5
    expected = [0.01 + rate * 2 / (1.84**0.5 + 0.1), -0.01 - rate * 1 / (0.46**0.5 + 0.1)]
    np.testing.assert_allclose(second.params, expected, rtol=1e-5)


def test_large_directions_move_the_model_by_twice_themselves_per_round():
    engine = engine_of(AsyncWA(buffer_size=1), 0.0, 0.0)

    # u = 2 D; 2 * 0.06 / |u| is less than 2 for the first coordinate and more for the second
    merge = merge_of(engine, update([2, 0.0001]))

    np.testing.assert_allclose(merge.params, [2 / 12 * 4, 0.01], rtol=1e-5)


def test_round_is_the_uploads_in_which_the_median_client_uploads_once():
    # a and b upload in turn, c once in 30: the middle one of 2, 2 and 30; then all in turn
    recipe = AsyncWA(buffer_size=1, volume_exponent=0.0, published_rounds=0.0)
    quick, even = engine_of(recipe), engine_of(recipe)
    for number in range(300):
        names = ("c" if number % 30 == 29 else "ab"[number % 2], f"n{number % 60}")
        for engine, name in zip((quick, even), names, strict=True):
            accept(engine, update([1], client=name, base=engine.version))

    assert quick.population.round_uploads() == pytest.approx(2, abs=1)
    assert even.population.round_uploads() == 60
    steps = []
    for engine in (quick, even):
        before = float(engine.params[0])
        accept(engine, update([1], client="z", base=engine.version))
        steps.append(float(engine.params[0]) - before)
    # a round is taken to last at least 12 K uploads
    assert steps[0] / steps[1] == pytest.approx(60 / 12, rel=0.1)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.41, 0.9])
@pytest.mark.parametrize("spread", [0.2, 1.2])
@pytest.mark.parametrize("roles", [Roles(), Roles(((0, 1),))], ids=["?", "known"])
def test_running_statistics_settle_where_the_clients_have_them(roles, spread, share, disjoint):
    # Clients move the first coordinate by a share of what is missing, as a layer of batch
    # normalisation does, and the others by little. Adding cached deltas again and again overshoots.
    rng = np.random.default_rng(1)
    size, clients = 8, 60
    rates = np.full(size, 0.002)
    rates[0] = share
    target = rng.normal(size=size)
    target[0] = 5.0
    limits = Limits(max_staleness=10_000)
    start = np.zeros(size, np.float32)
    engine = Engine(AsyncWA(disjoint=disjoint), start, limits=limits, roles=roles)
    seconds = np.exp(spread * rng.normal(size=clients))
    due = [(seconds[c] * rng.random(), c, 0, engine.params) for c in range(clients)]
    heapify(due)
    last = []
    while due[0][0] < 40:
        now, client, base, model = due[0]
        delta = rates * (target - model) + 1e-3 * rng.normal(size=size)
        # Whoever is back before the next version has nothing new to say.
        engine.offer(update(delta, client=f"c{client}", base=base), now)
        if engine.ready(now):
            engine.merge(now)
        heapreplace(due, (now + seconds[client], client, engine.version, engine.params))
        if now > 30:
            last.append(engine.params[0])

    assert abs(np.array(last) - 5.0).max() < 1.0
    # known to be statistics, they follow by no more than the share in a round
    assert engine.published[0] == pytest.approx(5.0, abs=0.5 if roles.means else 0.2)


@pytest.mark.parametrize("recipe", SCALE_FREE, ids=repr)
def test_scale_of_the_updates_does_not_matter(recipe):
    rng = np.random.default_rng(3)
    models = []
    deltas = rng.normal(size=(40, 5)).astype(np.float32)
    for scale in (2.0**-12, 2.0**-24):
        engine = engine_of(recipe, *np.zeros(5))
        for number, delta in enumerate(deltas):
            accept(engine, update(delta * scale, client=f"c{number % 7}", base=engine.version))
        models.append(engine.params)

    np.testing.assert_allclose(models[0], models[1], rtol=1e-6)


def test_disjoint_buffers_add_cached_mean_and_innovations_then_update_the_cache():
    engine = engine_of(linear(buffer_size=2, disjoint=True))

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
    engine = engine_of(linear(buffer_size=2, drift_correction=False))

    accept(engine, update([4], client="a"), update([8], client="b", examples=9))

    late = 3 * 1.5**-0.5
    np.testing.assert_allclose(engine.params, [2 + (4 + late * 8) / (1 + late) / 2], rtol=1e-6)


def transcription(uploads, size, k, disjoint, adaptive):
    """The rule as written down, client by client, in float64."""
    x, version = np.zeros(size), 0
    h, q, heard, window, buffer, published, merges = {}, {}, set(), [], [], None, 0
    v, decay, last, gap, round_uploads, looked_at = np.zeros(size), 0.9, {}, {}, 0, 0
    decay = decay if disjoint else decay ** (1 / k)
    gain, heard_of, start, way, slope = 1.0 if disjoint else 2.0, [], x, None, 0.0
    fit, products, forget = 1.0, np.zeros(2), 1 - 1 / (3.3 * k)

    def mean():
        weight = sum(q[c] for c in h)
        return sum(q[c] * h[c] for c in h) / weight if h else np.zeros(size)

    for number, (client, base, delta, n) in enumerate(uploads, 1):
        heard.add(client)
        if client in last:
            gap[client] = number - last[client]
        last[client] = number
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
        had = h.get(client)
        for c, _, d, m in buffer:
            h[c], q[c] = d, m**0.5
        if not disjoint:
            ((news, weight),) = innovations
            known = 0.0 if had is None else had
            window = [*window, (news + (1 - fit) * known, weight, fit)][-k:]
            taken = sum(w * c for _, w, c in window) / sum(w for _, w, _ in window)
            before, used = taken * mean(), [(r, w) for r, w, _ in window]
            products = forget * products
            if had is not None:
                apart = had - mean()
                products += np.array((news @ apart, apart @ apart))
                fit = np.clip(1 + products[0] / products[1], 0, 1)
        total = sum(w for _, w in used)
        step = before + sum(w * r for r, w in used) / total
        version, merges, buffer = version + 1, merges + 1, []
        if adaptive:
            if not looked_at or number - looked_at >= max(1, len(last) // 8):
                silent = [max(gap.get(c, 0), number - last[c]) for c in last]
                looked_at, round_uploads = number, np.median(silent)
            share = (k if disjoint else 1) / max(12 * k, round_uploads)
            floor = 0.1 * np.mean(v) ** 0.5
            v = decay * v + (1 - decay) * step**2
            rate = 0.06 * (1 - decay**merges) ** 0.5
            x = x + share * np.maximum(gain * rate / (v**0.5 + floor), 2) * step
            heard_of.append(delta)
            if not disjoint and len(heard_of) >= max(6 * k, round_uploads):
                average = np.mean(heard_of, axis=0)
                if slope > 0:
                    rho = np.clip(average @ way / slope, -1, 1)
                    gain = np.clip(gain * np.exp(rho - 0.4), 1, 8)
                heard_of, way, start = [], x - start, x
                slope = average @ way
        else:
            x = x + (step if disjoint else step / k)
        rate = 1 / max(1.0, min(merges / 5, 30 * len(heard) / (k if disjoint else 1)))
        published = x if published is None else published + rate * (x - published)
    # Without these the test would say nothing about what tunes itself.
    assert disjoint or not adaptive or gain > 2
    assert disjoint or 0 < fit < 1
    return x, published


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("disjoint", [False, True])
def test_long_run_matches_a_plain_transcription(disjoint, adaptive):
    rng = np.random.default_rng(5)
    size, k = 7, 4
    engine = Engine(
        AsyncWA(buffer_size=k, disjoint=disjoint, adaptive=adaptive, volume_exponent=0.5),
        np.zeros(size, np.float32),
        limits=Limits(max_staleness=1000),
    )
    uploads, started = [], dict.fromkeys("abcdefghij", 0)
    own = {client: np.sign(3.5 - np.arange(size)) + rng.normal(size=size) for client in started}
    for _ in range(200):
        client = str(rng.choice([c for c in started if started[c] is not None]))
        delta = (0.02 * (rng.normal(size=size) + own[client])).astype(np.float32)
        uploads.append((client, started[client], delta, int(rng.integers(1, 100))))
        accept(engine, update(delta, client=client, base=started[client], examples=uploads[-1][3]))
        started[client] = None
        if engine.pending == 0:
            for name in started:
                if started[name] is None:
                    started[name] = engine.version

    x, published = transcription(uploads, size, k, disjoint, adaptive)

    np.testing.assert_allclose(engine.params, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(engine.published, published, rtol=1e-4, atol=1e-4)


def test_last_word_of_a_client_in_one_buffer_is_from_its_newest_base():
    for order in ((0, 1), (1, 0)):
        engine = engine_of(linear(buffer_size=2, disjoint=True, volume_exponent=0.0))
        accept(engine, update([0], client="b"), update([0], client="c"))
        words = [update([10], client="a", base=0), update([4], client="a", base=1)]
        accept(engine, *(words[index] for index in order))

        before = engine.params.copy()
        accept(engine, update([0], client="b", base=2), update([0], client="c", base=2))

        np.testing.assert_allclose(engine.params - before, [4 / 3], rtol=1e-5)


def test_all_updates_of_a_client_in_one_buffer_are_compared_with_its_word_before_it():
    recipe = linear(buffer_size=2, disjoint=True, volume_exponent=0.0, staleness_exponent=0.0)
    engine = engine_of(recipe)
    accept(engine, update([4], client="a"), update([0], client="b"))
    accept(engine, update([0], client="b", base=1), update([0], client="c", base=1))
    before = engine.params.copy()

    # r = 6 - 4 and 8 - 4; cached mean 4 / 3
    accept(engine, update([6], client="a", base=1), update([8], client="a", base=2))

    np.testing.assert_allclose(engine.params - before, [3 + 4 / 3], rtol=1e-5)


def test_cache_that_was_emptied_has_no_mean():
    recipe = linear(buffer_size=2, disjoint=True, max_clients=2)
    engine = engine_of(recipe)

    for base in range(40):
        merge = merge_of(
            engine,
            update([1], client=f"even-{base}", base=base, examples=2 + base),
            update([1], client=f"odd-{base}", base=base, examples=3 + 2 * base),
        )

        np.testing.assert_allclose(merge.params, [base + 1], rtol=1e-5)


def test_changed_number_of_examples_changes_the_cached_weight():
    engine = engine_of(linear(buffer_size=2, disjoint=True, volume_exponent=1.0))
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
    assert [buffer_size_for(n) for n in (1, 25, 60, 10_000_000)] == [1, 4, 10, 100_000]
