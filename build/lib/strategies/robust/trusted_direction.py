"""Trust scores against an update known to be honest.

Cao, Fang, Liu and Gong, *FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping*
(NDSS 2021), equations 2 to 4: with g_0 the trusted update, an update g_i counts with
max(0, cos(g_i, g_0)) and is brought to the length of g_0 first.
"""

from __future__ import annotations

import numpy as np

from strategies.robust.gram import Floats, Rows, inner_products, lengths
from strategies.update import Vector

# Of the reference's length; what is shorter could overflow float32 when it is scaled.
_SHORTEST = 1e-30


def trust(rows: Rows, reference: Vector) -> tuple[Floats, Floats]:
    """Compare updates with a trusted one.

    Parameters
    ----------
    rows : ndarray, float32, shape (m, P)
        The updates.
    reference : Vector
        The trusted update, shape ``(P,)``.

    Returns
    -------
    scores : ndarray, float64, shape (m,)
        In [0, 1]; 0 for a reference of zeros and for an update too short to be scaled.
    scales : ndarray, float64, shape (m,)
        By what to multiply each update to give it the reference's length; 1 if it is too short.
    """
    norms, length = lengths(rows), float(lengths(reference[None])[0])
    scalable = norms > _SHORTEST * length
    divisors = np.where(scalable, norms, 1.0)
    cosines = inner_products(rows, reference[None])[:, 0] / divisors / (length or 1.0)
    scores = np.where(scalable, np.clip(cosines, 0.0, 1.0), 0.0)
    return scores, np.where(scalable, length / divisors, 1.0)
