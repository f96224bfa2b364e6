"""How evenly clients take part."""

from __future__ import annotations

from collections.abc import Iterable


def jain_index(shares: Iterable[float]) -> float:
    """Return Jain's index of fairness, (sum x)^2 / (n sum x^2).

    Jain, Chiu and Hawe, *A quantitative measure of fairness and discrimination for resource
    allocation in shared computer systems*, DEC TR-301, 1984, equation 1.

    Parameters
    ----------
    shares : iterable of float
        What each of the n clients got, at least 0: here the number of its accepted updates.

    Returns
    -------
    float
        1 if all got the same, 1/n if one got everything. 1 if nobody got anything.
    """
    got = list(shares)
    squares = sum(share * share for share in got)
    return sum(got) ** 2 / (len(got) * squares) if squares else 1.0
