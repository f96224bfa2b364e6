"""The keys of gateway and launcher, each made once."""

from __future__ import annotations

from pathlib import Path

from fl_protocol.encoding import b64url
from fl_protocol.ports import LocalDisk, Rng
from tee_sim.settings import load_signing_key

ISSUER_KEY, TOKEN_KEY, HOP_KEY = "issuer.key", "token.key", "hop.key"

_KEY_BYTES = 32


def create_keys(folder: Path, rng: Rng) -> str:
    """Make the keys that are not there yet, mode 0600.

    Parameters
    ----------
    folder : Path
        Receives issuer.key, token.key and hop.key. Keys that are there stay: a stack started again
        in its folder keeps its members enrolled.
    rng : Rng
        Source of the keys.

    Returns
    -------
    str
        The issuer's public key, base64url, which goes into the enclave's policy.
    """
    disk = LocalDisk()
    for name in (ISSUER_KEY, TOKEN_KEY, HOP_KEY):
        if not disk.exists(folder / name):
            disk.write_atomic(folder / name, rng.bytes(_KEY_BYTES), 0o600)
    return b64url(load_signing_key(folder / ISSUER_KEY).public_key().public_bytes_raw())
