"""Where data files are found, and the check that they are the expected ones."""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid


def package_folder(package: str, *, extra: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID, naming the optional extra that installs the package, if it is missing.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"This data set needs the package {package}: pip install 'asynclave[{extra}]'.",
        )
    return Path(spec.origin).parent


def cache_folder() -> Path:
    """Return where ``make data`` keeps downloads: XDG_CACHE_HOME, or .cache right here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or ".cache").absolute() / "asynclave"


def read_verified(path: Path, sha256: str) -> bytes:
    """Read a file and return its content only if it has the expected SHA-256.

    The content that was hashed is the content returned, so a file replaced in between is
    never used.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if the file has another hash.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"The data file {path} is not the one this release was made for (its SHA-256 "
            "differs), so it was not loaded; install it again.",
        )
    return content
