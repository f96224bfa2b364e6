"""Tokens of one node, shared by its processes: in memory, or in the node's folder.

Flower starts a process per message, and each would otherwise prove the identity key again. Whoever
renews holds the lock and reads once more what another process may have renewed meanwhile, so no
refresh token is presented by two. The folder holds the identity key already, with which tokens are
to be had at any time: what lies beside it gives nobody more.
"""

from __future__ import annotations

import contextlib
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fl_protocol import records
from fl_protocol.canonical import CanonicalError
from fl_protocol.ports import Disk, LocalDisk
from fl_protocol.records import Count, PublicKey, Text

_MAX_BYTES = 16_384
_Token = Annotated[str, Text(re.compile(r"[A-Za-z0-9._~+/=-]{0,6000}"))]


@dataclass(frozen=True)
class Tokens:
    """An access token and what it is renewed with.

    Attributes
    ----------
    jkt : str
        Thumbprint of the proof key they are bound to.
    access_token, refresh_token : str
        Empty if there is none.
    renew_at, expires_at : int
        Of the access token, Unix seconds.
    presented_at : int
        When the refresh token was sent first, Unix seconds; 0 if it was not. Its answer was lost.
    """

    jkt: PublicKey
    access_token: _Token = ""
    refresh_token: _Token = ""
    renew_at: Count = 0
    expires_at: Count = 0
    presented_at: Count = 0


class MemoryTokens:
    """Tokens of a node with one process."""

    def __init__(self) -> None:
        self._tokens: Tokens | None = None

    def alone(self) -> AbstractContextManager[object]:
        """Return at once: there is nobody else."""
        return contextlib.nullcontext()

    def load(self) -> Tokens | None:
        """Return what was saved last."""
        return self._tokens

    def save(self, tokens: Tokens) -> None:
        """Keep tokens."""
        self._tokens = tokens


class FileTokens(MemoryTokens):
    """Tokens in a file, mode 0600 and replaced atomically.

    Parameters
    ----------
    folder : Path
        Created when first written.
    disk : Disk, optional
        The local disk by default.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        super().__init__()
        self._disk = disk or LocalDisk()
        self._path, self._lock = folder / "tokens.json", folder / "tokens.lock"

    def alone(self) -> AbstractContextManager[object]:
        """Keep all other processes of the node waiting."""
        return self._disk.lock(self._lock)

    def load(self) -> Tokens | None:
        """Return what any process saved last; a file that cannot be read holds none."""
        try:
            return records.decode(Tokens, self._disk.read(self._path), _MAX_BYTES)
        except (CanonicalError, OSError):
            return super().load()

    def save(self, tokens: Tokens) -> None:
        """Keep tokens, in this process at least if the disk does not take them."""
        super().save(tokens)
        with contextlib.suppress(OSError):
            self._disk.write_atomic(self._path, records.encode(tokens), 0o600)
