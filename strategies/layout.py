"""The manifest of a model: how named arrays map onto one flat float32 vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from strategies.errors import ManifestMismatch
from strategies.roles import Roles
from strategies.update import Vector

Arrays = Mapping[str, npt.NDArray[Any]]

_FLOATS = frozenset({"float16", "float32", "float64"})
_CARRIED = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)
_MAX_PARAMS = 2**33
_MAX_DIMENSIONS = 16


@dataclass(frozen=True)
class Entry:
    """One array of the model.

    Parameters
    ----------
    name : str
        Key in the state dict.
    dtype : str
        NumPy dtype name.
    shape : tuple of int
        Shape; ``()`` for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def trained(self) -> bool:
        """Whether the array is part of the flat vector (floating point)."""
        return self.dtype in _FLOATS


@dataclass(frozen=True)
class Layout:
    """Names, dtypes and shapes of a model's arrays, in order.

    Floating-point arrays make up the flat float32 vector. Integer and boolean arrays (such as
    BatchNorm's ``num_batches_tracked``) are carried along and never averaged.

    Parameters
    ----------
    entries : tuple of Entry
        The arrays in model order.

    Raises
    ------
    ManifestMismatch
        An entry is not a valid array description.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if len({entry.name for entry in self.entries}) != len(self.entries):
            raise ManifestMismatch("Two arrays of the model have the same name.")
        for entry in self.entries:
            _check_entry(entry)
        if not 0 < self.num_params <= _MAX_PARAMS:
            raise ManifestMismatch(
                f"A model needs between 1 and {_MAX_PARAMS} floating-point parameters."
            )

    @classmethod
    def of(cls, arrays: Arrays) -> Layout:
        """Describe a model.

        Parameters
        ----------
        arrays : Mapping of str to ndarray
            The model's arrays by name, in model order.

        Returns
        -------
        Layout

        Raises
        ------
        ManifestMismatch
            An array is neither floating point, integer nor boolean.
        """
        return cls(tuple(_describe(name, array) for name, array in arrays.items()))

    @cached_property
    def num_params(self) -> int:
        """Length P of the flat vector."""
        return sum(prod(entry.shape) for entry in self.entries if entry.trained)

    @cached_property
    def roles(self) -> Roles:
        """What the columns of the flat vector hold, as far as the names tell."""
        return Roles.of((entry.name, start, stop) for entry, start, stop in self._spans())

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no white space, ASCII."""
        rows = [[entry.name, entry.dtype, list(entry.shape)] for entry in self.entries]
        return json.dumps({"arrays": rows, "v": 1}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read what :meth:`to_json` wrote, and nothing else.

        Parameters
        ----------
        text : str
            Canonical JSON.

        Returns
        -------
        Layout

        Raises
        ------
        ManifestMismatch
            The text is not the canonical JSON of a layout.
        """
        try:
            document = json.loads(text)
            rows = document["arrays"]
            layout = cls(tuple(Entry(name, dtype, tuple(shape)) for name, dtype, shape in rows))
            canonical = layout.to_json()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ManifestMismatch("The manifest is not a valid layout document.") from error
        if canonical != text:
            raise ManifestMismatch("The manifest is not in canonical form.")
        return layout

    def carried(self, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return those arrays of a model of this layout that are not in the flat vector."""
        return {entry.name: arrays[entry.name] for entry in self.entries if not entry.trained}

    def flatten(self, arrays: Arrays, out: Vector | None = None) -> Vector:
        """Copy the floating-point arrays into one vector.

        Parameters
        ----------
        arrays : Mapping of str to ndarray
            A model of exactly this layout.
        out : Vector, optional
            Where to write, shape ``(P,)``; a new vector by default.

        Returns
        -------
        Vector
            Flat model, float32, shape ``(P,)``.

        Raises
        ------
        ManifestMismatch
            Names, order, shapes or dtypes differ.
        """
        self._compare(arrays)
        return self._copy(arrays, out)

    def fit(self, arrays: Arrays, out: Vector | None = None) -> Vector:
        """Copy what a client trained into one vector, matched by name.

        Order and precision of the floating-point arrays do not matter, and integer and boolean
        arrays are not read: they may be missing or differ.

        Parameters
        ----------
        arrays : Mapping of str to ndarray
            What was trained from a model of this layout.
        out : Vector, optional
            Where to write, shape ``(P,)``; a new vector by default.

        Returns
        -------
        Vector
            Flat model, float32, shape ``(P,)``; infinite where a value is too large for float32.

        Raises
        ------
        ManifestMismatch
            A floating-point array is missing, has another shape, or is not in the model.
        """
        for entry in self.entries:
            _check_fit(entry, arrays.get(entry.name))
        names = {entry.name for entry in self.entries}
        for name, array in arrays.items():
            if name not in names and array.dtype.name not in _CARRIED:
                raise ManifestMismatch(f"The model has no array {name!r}.")
        with np.errstate(over="ignore"):
            return self._copy(arrays, out)

    def unflatten(self, vector: Vector, carried: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Split a vector into the model's arrays.

        Parameters
        ----------
        vector : Vector
            Flat model, shape ``(P,)``.
        carried : Mapping of str to ndarray
            Source of the integer and boolean arrays; other names are ignored.

        Returns
        -------
        dict of str to ndarray
            The arrays in model order; float32 arrays are views of ``vector``, carried ones are
            the arrays given.

        Raises
        ------
        ManifestMismatch
            The vector has another length or a carried array is missing or differs.
        """
        if vector.shape != (self.num_params,) or vector.dtype != np.float32:
            raise ManifestMismatch(f"The model is not a float32 vector of {self.num_params}.")
        for entry in self.entries:
            if not entry.trained and (
                entry.name not in carried or _describe(entry.name, carried[entry.name]) != entry
            ):
                raise ManifestMismatch(f"The carried array {entry.name!r} is missing or differs.")
        views = {
            entry.name: vector[start:stop].reshape(entry.shape).astype(entry.dtype, copy=False)
            for entry, start, stop in self._spans()
        }
        return {e.name: views[e.name] if e.trained else carried[e.name] for e in self.entries}

    def _copy(self, arrays: Arrays, out: Vector | None) -> Vector:
        flat = np.empty(self.num_params, np.float32) if out is None else out
        if flat.shape != (self.num_params,) or flat.dtype != np.float32:
            raise ManifestMismatch(f"The output is not a float32 vector of {self.num_params}.")
        for entry, start, stop in self._spans():
            np.copyto(flat[start:stop].reshape(entry.shape), arrays[entry.name], "same_kind")
        return flat

    def _spans(self) -> list[tuple[Entry, int, int]]:
        spans, start = [], 0
        for entry in self.entries:
            if entry.trained:
                spans.append((entry, start, start + prod(entry.shape)))
                start += prod(entry.shape)
        return spans

    def _compare(self, arrays: Arrays) -> None:
        if list(arrays) != [entry.name for entry in self.entries]:
            raise ManifestMismatch("The arrays' names or their order differ from the manifest.")
        for entry in self.entries:
            if _describe(entry.name, arrays[entry.name]) != entry:
                raise ManifestMismatch(f"Shape or dtype of {entry.name!r} differs.")


def _describe(name: str, array: npt.NDArray[Any]) -> Entry:
    return Entry(name, array.dtype.name, tuple(array.shape))


def _check_fit(entry: Entry, array: npt.NDArray[Any] | None) -> None:
    if array is None:
        if entry.trained:
            raise ManifestMismatch(f"The model's array {entry.name!r} is missing.")
        return
    if array.dtype.name not in (_FLOATS if entry.trained else _CARRIED):
        raise ManifestMismatch(
            f"Array {entry.name!r} is of {array.dtype.name}, the model's of {entry.dtype}."
        )
    if entry.trained and array.shape != entry.shape:
        raise ManifestMismatch(
            f"Array {entry.name!r} has the shape {array.shape}, the model's {entry.shape}."
        )


def _check_entry(entry: Entry) -> None:
    if type(entry.name) is not str or not entry.name:
        raise ManifestMismatch("Every array of a model needs a name.")
    if entry.dtype not in _FLOATS | _CARRIED:
        raise ManifestMismatch(f"Array {entry.name!r} has the unsupported dtype {entry.dtype}.")
    sizes_valid = all(type(size) is int and 0 <= size <= _MAX_PARAMS for size in entry.shape)
    if not sizes_valid or len(entry.shape) > _MAX_DIMENSIONS:
        raise ManifestMismatch(f"Array {entry.name!r} has an invalid shape.")
