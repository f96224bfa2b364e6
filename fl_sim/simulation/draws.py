"""Where in a table of random draws a client's n-th draw stands.

A pure function of (client, number), so what is drawn does not depend on the order of asking; looked
up instead of made by a generator per draw, which a scheduler of half a million events per second
could not afford.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

TABLE = 1 << 14
"""Length of such a table."""
# Every client walks through the table from a place of its own; the stride is odd, so it comes back
# to where it began only after the whole table. Where more clients than places make some begin at
# the same one, their strides differ.
_STRIDE = 0x1E35
_SPREAD = 0x9E3779B1

Numbers = TypeVar("Numbers", int, npt.NDArray[np.int64])


def place_of(client: Numbers, number: Numbers) -> Numbers:
    """Return the place of draw `number` of `client`; of many in arrays."""
    return (client * _SPREAD + number * (_STRIDE + client // TABLE * 2)) % TABLE
