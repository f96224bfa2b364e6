"""What both sides must agree on about Flower: its version and the names of entries in records."""

from __future__ import annotations

from importlib.metadata import version

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.signatures import Signed

SUPPORTED = "1.41"

RUN_ID = "asynclave-run-id"
BASE_VERSION = "asynclave-base-version"
WEIGHTED_BY = "asynclave-weighted-by"
REPLIES = "asynclave-replies"
RECEIPT = "asynclave-receipt"
UTILISATION = "utilisation"
"""Metric in which a node may report its load, in per cent."""


def receipt_entries(code: str, signed: Signed | None = None) -> dict[str, str | bytes]:
    """Return the entries of the record named `RECEIPT`.

    Parameters
    ----------
    code : str
        What became of the update.
    signed : Signed, optional
        The enclave's receipt; there is none of an update that it has not seen.
    """
    payload, signature = (b"", b"") if signed is None else (signed.payload, signed.signature)
    return {"payload": payload, "signature": signature, "code": code}


def require_supported(found: str | None = None) -> None:
    """Refuse to run on a Flower version that this project was not tested with.

    Parameters
    ----------
    found : str, optional
        A version number; the installed one if unset.

    Raises
    ------
    ConfigInvalid
        If it is not a release of the supported series.
    """
    found = version("flwr") if found is None else found
    if found != SUPPORTED and not found.startswith(f"{SUPPORTED}."):
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"Flower {found} is installed, but this needs Flower {SUPPORTED}.x; "
            f"run: pip install 'flwr~={SUPPORTED}.0'.",
        )
