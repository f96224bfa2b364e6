"""The model files of a run, held against what was released."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from asynclave.verification.files import unreadable
from asynclave.verification.rules import Flaw, Ledger
from fl_protocol.files import UnfitFile, open_regular, regular_size
from fl_server.intake.records import MODEL
from strategies.catalog import recipe_from
from strategies.errors import ManifestMismatch
from strategies.layout import Layout
from strategies.update import FLOAT_BYTES, digest_of

_PUBLISHED = "model.safetensors"
# What safetensors raises besides its own: of arrays that are not there, and of types that numpy
# does not have.
_UNREADABLE = (OSError, KeyError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True)
class Models:
    """The model files in a folder.

    Parameters
    ----------
    folder : Path
        The run's.
    layout : bytes
        Of the model, as the openings sign it.
    recipe : Mapping
        The attested one: name and options.
    ledger : Ledger
        What was released.
    notes : list of str
        Takes what the files are.
    """

    folder: Path
    layout: bytes
    recipe: Mapping[str, Any]
    ledger: Ledger
    notes: list[str]

    def check(self, index: int) -> Flaw | None:
        """Return what is wrong with a model file, if anything is, under an index of the chain.

        Raises
        ------
        ConfigInvalid
            A file is out of reach.
        """
        try:
            shape = Layout.from_json(self.layout.decode())
            self._check_released(shape)
            self._check_published(shape)
        except (_ModelMismatch, ManifestMismatch, UnicodeDecodeError) as error:
            return Flaw(index, "model", str(error))
        return None

    def _check_released(self, shape: Layout) -> None:
        path, newest = self.folder / MODEL, self.ledger.version
        if not path.exists():
            if self.ledger.releases:
                raise _ModelMismatch(f"{MODEL} is missing")
            return
        version = self.ledger.released.get(_digest(path, FLOAT_BYTES * shape.num_params))
        if version is None:
            raise _ModelMismatch(f"{MODEL} is no model the enclave released")
        # A server writes the record first: one that is cut off in between leaves the one before.
        if version < newest - 1:
            raise _ModelMismatch(f"{MODEL} is version {version}, but {newest} was released")
        self.notes.append(f"{MODEL} is version {version}")

    def _check_published(self, shape: Layout) -> None:
        path, released = self.folder / _PUBLISHED, self.ledger.released
        if not path.exists():
            return
        named, digest = _read_published(path, shape, _most_bytes(shape, self.layout))
        if named not in released:
            raise _ModelMismatch(f"{_PUBLISHED} names a model never released")
        if digest in released:
            self.notes.append(f"{_PUBLISHED} is version {released[digest]}")
        elif self._publishes_a_mean():
            self.notes.append(
                f"{_PUBLISHED} is a mean over releases up to version {released[named]}, "
                "which no signature covers"
            )
        else:
            raise _ModelMismatch(f"{_PUBLISHED} is no model the enclave released")

    def _publishes_a_mean(self) -> bool:
        recipe = recipe_from(self.recipe["name"], **self.recipe["options"])
        return recipe.parts().published is not None


class _ModelMismatch(Exception):
    """A file is not the model that it must be; the message says why."""


def _digest(path: Path, size: int) -> str:
    """Return the digest of a model file of the one size that it can have."""
    try:
        if regular_size(path) != size:
            raise _ModelMismatch(
                f"{MODEL} is no model the enclave released: those have {size} bytes"
            )
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except UnfitFile as error:
        raise _ModelMismatch(f"{MODEL} {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _read_published(path: Path, shape: Layout, most: int) -> tuple[str, str]:
    """Return the digest that a published model names, and its own."""
    try:
        if regular_size(path) > most:
            raise _ModelMismatch(f"{_PUBLISHED} is larger than a model of its layout")
        with safe_open(path, "numpy") as file:
            named = (file.metadata() or {}).get("digest", "")
        arrays = load_file(path)
        params = shape.flatten({entry.name: arrays[entry.name] for entry in shape.entries})
    except UnfitFile as error:
        raise _ModelMismatch(f"{_PUBLISHED} {error}") from None
    except (SafetensorError, ManifestMismatch, *_UNREADABLE) as error:
        raise _ModelMismatch(f"{_PUBLISHED} cannot be read: {error}") from None
    return named, digest_of(params)


def _most_bytes(shape: Layout, layout: bytes) -> int:
    """Return what a published model may have: its arrays, and a header that describes them."""
    arrays = sum(prod(e.shape) * np.dtype(e.dtype).itemsize for e in shape.entries)
    # The header says of each array what the layout does, in up to six times as many bytes.
    return arrays + 8 * len(layout) + (1 << 20)
