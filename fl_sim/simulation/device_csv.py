"""Device files: CSV, the columns named in the first line, whatever is wrong named by its line."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid

# As many as a number of ten million clients has.
_CLIENT_DIGITS = 8


@dataclass(frozen=True)
class DeviceFile:
    """A CSV file that a key of a configuration names.

    Every method refuses with `ConfigInvalid`, its sentence beginning with the key.

    Attributes
    ----------
    key : str
        The key, as ``devices.trace``.
    path : Path
        The file.
    """

    key: str
    path: Path

    def rows(
        self, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the line of every row and its fields by column; ``""`` for what it lacks."""
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, strict=True)
                names = next(reader, [])
                self._check_columns(names, required, optional)
                for fields in reader:
                    if len(fields) > len(names):
                        raise self.refused(reader.line_num, f"{len(fields)} fields, too many.")
                    if fields:
                        fields += [""] * (len(names) - len(fields))
                        yield reader.line_num, dict(zip(names, fields, strict=True))
        except OSError as error:
            raise self._unreadable(error) from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise self.invalid(f"{self.path} is not a CSV file: {error}.") from None

    def client(self, line: int, text: str, num_clients: int) -> int:
        """Return the number of a client that a field names."""
        digits = text.isascii() and text.isdecimal() and len(text) <= _CLIENT_DIGITS
        if not (digits and int(text) < num_clients):
            raise self.refused(line, f"client must be 0 to {num_clients - 1}, not {text[:20]!r}.")
        return int(text)

    def number(self, line: int, name: str, text: str, least: float, most: float) -> float:
        """Return the number in the field of column `name`."""
        try:
            # Python also reads 1_0 and digits of other scripts.
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise self.refused(
                line, f"{name} must be a number from {least:g} to {most:g}, not {text[:20]!r}."
            )
        return value

    def require_all(self, missing: Sequence[int], num_clients: int) -> None:
        """Refuse the file if it lacks rows of clients."""
        if missing:
            raise self.invalid(
                f"{self.path} has no row for client {missing[0]}; in all it lacks "
                f"{len(missing)} of the {num_clients} that devices.clients asks for."
            )

    def digest(self) -> str:
        """Return a digest of what the file holds."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise self._unreadable(error) from None

    def refused(self, line: int, sentence: str) -> ConfigInvalid:
        """Return the refusal of a row."""
        return self.invalid(f"{self.path}, line {line}: {sentence}")

    def invalid(self, sentence: str) -> ConfigInvalid:
        """Return the refusal of the file."""
        return ConfigInvalid(Code.CONFIG_INVALID, f"{self.key}: {sentence}")

    def _unreadable(self, error: OSError) -> ConfigInvalid:
        return self.invalid(f"{self.path} cannot be read: {error.strerror}.")

    def _check_columns(
        self, names: Sequence[str], required: Sequence[str], optional: Sequence[str]
    ) -> None:
        known = (*required, *optional)
        for name in required:
            if name not in names:
                raise self.invalid(f"{self.path} has no column {name!r} in its first line.")
        for name in names:
            if name not in known:
                raise self.invalid(
                    f"{self.path} has an unknown column {name!r}; known: {', '.join(known)}."
                )
        if len(set(names)) < len(names):
            raise self.invalid(f"{self.path} names a column twice in its first line.")
