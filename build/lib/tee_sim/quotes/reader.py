"""Strict reading of little-endian structures: no read past the end, nothing left over."""

from __future__ import annotations


class Reader:
    """Takes fields one after the other from bytes.

    Parameters
    ----------
    data : bytes
        The whole structure.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.offset = data, 0

    def take(self, length: int) -> bytes:
        """Return the next bytes; raises ValueError when there are fewer."""
        field = self._data[self.offset : self.offset + length]
        if len(field) != length:
            raise ValueError("shorter than its fields")
        self.offset += length
        return field

    def number(self, length: int) -> int:
        """Return the next bytes as an unsigned little-endian number; raises ValueError."""
        return int.from_bytes(self.take(length), "little")

    def hexadecimal(self, length: int) -> str:
        """Return the next bytes in hexadecimal; raises ValueError."""
        return self.take(length).hex()

    def rest(self) -> bytes:
        """Return everything that is left."""
        return self.take(len(self._data) - self.offset)

    def skip_zeros(self, length: int) -> None:
        """Pass bytes that must be zero; raises ValueError."""
        if any(self.take(length)):
            raise ValueError("bytes that must be zero are not")

    def end(self, *, padded: bool = False) -> None:
        """Refuse what is left; raises ValueError.

        Parameters
        ----------
        padded : bool
            Allow any number of zero bytes.
        """
        rest = self._data[self.offset :]
        if any(rest) or (rest and not padded):
            raise ValueError("longer than its fields")
