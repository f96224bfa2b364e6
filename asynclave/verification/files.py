"""Files of the records that cannot be read."""

from __future__ import annotations

from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.files import UnfitFile


def unreadable(path: Path, error: OSError) -> ConfigInvalid:
    """Return the refusal of a file of the records that cannot be read."""
    if isinstance(error, UnfitFile):
        sentence = f"{path} {error}, and a file of the records has that name."
        return ConfigInvalid(Code.CONFIG_INVALID, sentence)
    missing = isinstance(error, FileNotFoundError)
    hint = "; only confidential runs leave records to verify" if missing else ""
    return ConfigInvalid(Code.CONFIG_INVALID, f"{path}: {error.strerror}{hint}.")
