"""The tensors a test plants: a pure function of who plants them."""

import numpy as np
import numpy.typing as npt

SIZE = 4096
CONTROL = 1000


def planted(owner: int) -> npt.NDArray[np.float32]:
    """Return the tensor, shape (4096,), of a client by partition, or of `CONTROL`."""
    return np.random.default_rng(owner).normal(size=SIZE).astype(np.float32)
