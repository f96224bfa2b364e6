"""The keys that sign access tokens: the current one, and the one before until its tokens end.

They are files that are looked at before each use, so that a rotation needs no restart.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import Clock, LocalDisk, Rng
from fl_protocol.proof import thumbprint
from fl_protocol.tokens import Claims, TokenSigner, TokenVerifier
from tee_sim.settings import load_signing_key

_KEY_BYTES = 32
_NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK


class TokenKeys:
    """Signs with the newest key and verifies with the two newest; safe to share between threads.

    Parameters
    ----------
    path : Path
        The current raw Ed25519 key; `rotate` keeps the one before beside it.
    federation : str
        Names issuer and audience.
    clock : Clock
        Time for verification, and age of the current key.
    lead : float
        Seconds that a new key is published before it signs: whoever reads the key set now and then
        must know it by then.

    Raises
    ------
    ConfigInvalid
        A file is no signing key.
    """

    def __init__(self, path: Path, federation: str, clock: Clock, lead: float = 0.0) -> None:
        self._path, self._clock, self._lead = path, clock, lead
        self._lock = threading.Lock()
        self.issuer = f"asynclave:{federation}"
        self.audience = f"asynclave-gateway:{federation}"
        self._load()

    def signer(self, is_revoked: Callable[[str], bool]) -> TokenSigner:
        """Return the signer with the current key, or with the one before while that is too new.

        Parameters
        ----------
        is_revoked : callable
            Of a key's id; one that is revoked signs no longer than it has to.
        """
        self._follow()
        current, *previous = self._signers
        new = self._clock.now() - self._loaded[0].written / 1e9 < self._lead
        if new and previous and not is_revoked(previous[0].kid):
            return previous[0]
        return current

    def jwks(self) -> dict[str, Any]:
        """Return the key set (RFC 7517), the current key first."""
        self._follow()
        return {"keys": [signer.jwk() for signer in self._signers]}

    def verify(self, token: str, required_scope: str) -> Claims:
        """Verify an access token; raises TokenRejected as `TokenVerifier.verify` does."""
        self._follow()
        return self._verifier.verify(token, required_scope)

    def _follow(self) -> None:
        with self._lock:
            if self._state() != self._loaded:
                self._load()

    def _load(self) -> None:
        found = self._state()
        paths = (self._path, _previous(self._path))
        keys = [load_signing_key(path) for path in paths if path.exists()]
        # In the middle of a rotation both files hold the same key.
        signers = {signer.kid: signer for signer in map(_signer, keys)}
        self._signers = list(signers.values())
        keys_now = {"keys": [signer.jwk() for signer in self._signers]}
        self._verifier = TokenVerifier(keys_now, self.issuer, self.audience, self._clock)
        # Last: a load that failed is tried again.
        self._loaded = found

    def _state(self) -> tuple[_File, _File | None]:
        previous = _previous(self._path)
        return _file(self._path), _file(previous) if previous.exists() else None


class _File(NamedTuple):
    inode: int
    written: int


def _file(path: Path) -> _File:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path} is no key: {error}") from None
    return _File(found.st_ino, found.st_mtime_ns)


def rotate(path: Path, rng: Rng) -> None:
    """Replace the current key; tokens it signed are valid until the next rotation or their end.

    The new file belongs to the owner of the old one, the gateway, also when root rotates.

    Parameters
    ----------
    path : Path
        The current key's file.
    rng : Rng
        Source of the new key.

    Raises
    ------
    ConfigInvalid
        The file is no key, or leads to another.
    """
    disk = LocalDisk()
    current, like = _present(path)
    disk.write_atomic(_previous(path), current, 0o600, like)
    disk.write_atomic(path, rng.bytes(_KEY_BYTES), 0o600, like)


def _present(path: Path) -> tuple[bytes, os.stat_result]:
    """Return the current key and its file, which is no link: its owner gets what is read here."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_LINK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != _KEY_BYTES or found.st_nlink != 1:
            raise ConfigInvalid(Code.CONFIG_INVALID, f"{path} is not the file of a key.")
        return file.read(), found


def _previous(path: Path) -> Path:
    return path.with_suffix(".previous")


def _signer(key: Ed25519PrivateKey) -> TokenSigner:
    return TokenSigner(key, kid=thumbprint(key.public_key().public_bytes_raw()))
