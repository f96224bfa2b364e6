"""Jain's index, equation 1 of DEC TR-301."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.selection import jain_index

shares = st.lists(st.integers(0, 1000), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("counts", "index"),
    [
        ([7, 7, 7], 1.0),
        ([5, 0, 0, 0], 0.25),
        ([1, 2, 3], 36 / (3 * 14)),
        ([0, 0], 1.0),
        ([], 1.0),
    ],
)
def test_values_worked_out_by_hand(counts, index):
    assert jain_index(counts) == pytest.approx(index)


@given(shares)
def test_lies_between_one_client_and_all(counts):
    assert 1 / len(counts) - 1e-12 <= jain_index(counts) <= 1 + 1e-12


@given(shares, st.integers(2, 50), st.randoms())
def test_neither_scale_nor_order_matters(counts, scale, rng):
    other = [scale * count for count in counts]
    rng.shuffle(other)
    assert jain_index(other) == pytest.approx(jain_index(counts))
