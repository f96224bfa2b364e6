"""Fashion-MNIST: 70,000 images of clothing (Xiao et al., 1708.07747; MIT licence).

The files come from the Debian package ``dataset-fashion-mnist``, which ``make data`` unpacks
into the cache folder without root; a system-wide installation is found as well.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.data.examples import Examples, Source
from fl_sim.data.files import cache_folder, read_verified

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_INSTALLED = Path("usr/share/datasets/fashion-mnist")
_SHA256 = {
    ("train", "images"): "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ("train", "labels"): "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ("t10k", "images"): "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ("t10k", "labels"): "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def find_folder() -> Path | None:
    """Return the folder that holds all files, or None if ``make data`` has not been run."""
    roots = (cache_folder() / "fashion-mnist", Path("/"))
    return next((root / _INSTALLED for root in roots if _is_complete(root / _INSTALLED)), None)


def fashion_mnist(folder: Path | None = None) -> tuple[Examples, Examples]:
    """Load the training and the test images, 6,000 and 1,000 per class.

    Parameters
    ----------
    folder : Path, optional
        Folder with the four ``.gz`` files; if unset, the cache folder or the system's.

    Returns
    -------
    train, test : Examples
        Features float32 of shapes (60000, 784) and (10000, 784), pixels scaled to [0, 1].

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if the files are missing (the sentence names ``make data``) or if one
        has an unexpected hash.
    """
    folder = folder or find_folder()
    if folder is None or not _is_complete(folder):
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"Fashion-MNIST is not in {folder or cache_folder()}; fetch it once with "
            "'make data', in the folder this program is started from.",
        )
    return _examples(folder, "train"), _examples(folder, "t10k")


@functools.cache
def source() -> Source:
    """Return Fashion-MNIST with its own test set; kept for the life of the process."""
    return Source(*fashion_mnist(), CLASSES)


@functools.cache
def pooled_source() -> Source:
    """Return the images averaged over 2 x 2 pixels to 14 x 14, for quick experiments."""
    train, test = source().train, source().test
    assert test is not None
    return Source(_pool(train), _pool(test), CLASSES)


def _pool(images: Examples) -> Examples:
    blocks = images.features.reshape(-1, 14, 2, 14, 2)
    means = blocks.mean(axis=(2, 4), dtype=np.float32)
    return Examples(means.reshape(-1, 14 * 14), images.labels).freeze()


def _examples(folder: Path, split: str) -> Examples:
    pixels = _read_idx(folder, split, "images")
    images = pixels.reshape(len(pixels), -1) / np.float32(255)
    labels = _read_idx(folder, split, "labels").astype(np.int64)
    return Examples(images, labels).freeze()


def _read_idx(folder: Path, split: str, kind: str) -> npt.NDArray[np.uint8]:
    """Parse an IDX file of bytes: two zeros, type 8, rank, big-endian sizes, then the data."""
    path = folder / _file_name(split, kind)
    content = gzip.decompress(read_verified(path, _SHA256[split, kind]))
    rank = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=rank, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(*shape)


def _is_complete(folder: Path) -> bool:
    return all((folder / _file_name(*part)).exists() for part in _SHA256)


def _file_name(split: str, kind: str) -> str:
    return f"{split}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz"
