"""Smart-watch shoulder exercises by subject and side, from seglearn 1.2.5 (BSD licence).

Ten people performed seven physiotherapy exercises with each arm while wearing a watch (Burns
et al., 1802.01489): 140 recordings of six axes at 50 Hz. The file is a pickle, so it is only
opened after its SHA-256 has been checked.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl_sim.data.examples import Examples, Rows, Source
from fl_sim.data.files import package_folder, read_verified

WINDOW = 100
"""Samples in a window: 2 s at 50 Hz."""

_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_TRAIN_SHARE = 0.8


def dataset_file() -> Path:
    """Return the path of the data file in the installed seglearn package."""
    return package_folder("seglearn", extra="data") / "data" / "watch_dataset.npy"


def read_recordings(path: Path) -> dict[str, Any]:
    """Read the recordings, a mapping with keys X, y, subject, side, X_labels, y_labels.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if the file is not byte for byte the one of seglearn 1.2.5; nothing of
        it has been unpickled then.
    """
    content = io.BytesIO(read_verified(path, _SHA256))
    recordings: dict[str, Any] = np.load(content, allow_pickle=True).item()
    return recordings


@functools.cache
def source() -> Source:
    """Cut the recordings into windows of 2 s that overlap by half.

    The first 80 % of each recording are for training, the rest for testing; no window crosses
    the cut. Features are float32 of shape (n, 100, 6): three accelerations, three angular
    velocities, as recorded. A user is one arm of one subject, 20 in all.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if seglearn is missing or its file has an unexpected hash.
    """
    recordings = read_recordings(dataset_file())
    people = list(zip(recordings["subject"].tolist(), recordings["side"].tolist(), strict=True))
    order = sorted(set(people))
    labels = recordings["y"].astype(np.int64)
    users = np.array([order.index(person) for person in people], dtype=np.int64)
    cuts = [round(_TRAIN_SHARE * len(signal)) for signal in recordings["X"]]
    signals = list(zip(recordings["X"], cuts, strict=True))
    train, train_users = _join([_windows(x[:cut]) for x, cut in signals], labels, users)
    test, test_users = _join([_windows(x[cut:]) for x, cut in signals], labels, users)
    names = tuple(f"subject {subject} {'right' if side else 'left'}" for subject, side in order)
    return Source(train, test, tuple(recordings["y_labels"]), names, train_users, test_users)


def _windows(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    every = np.lib.stride_tricks.sliding_window_view(signal, WINDOW, axis=0)[:: WINDOW // 2]
    return np.ascontiguousarray(every.transpose(0, 2, 1), dtype=np.float32)


def _join(
    recordings: Sequence[npt.NDArray[np.float32]], labels: Rows, users: Rows
) -> tuple[Examples, Rows]:
    """Stack the windows of all recordings and repeat each recording's label and user."""
    sizes = [len(windows) for windows in recordings]
    examples = Examples(np.concatenate(recordings), np.repeat(labels, sizes))
    return examples.freeze(), np.repeat(users, sizes)
