"""Every Flower internal the strategies use, in one place, for one Flower version."""

from __future__ import annotations

from importlib.metadata import version

from flwr.app import Message, RecordDict

from fl_protocol.codes import Code, ConfigInvalid

SUPPORTED = "1.41"


def require_supported(found: str | None = None) -> None:
    """Refuse to run on a Flower version these strategies were not tested with.

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
            f"Flower {found} is installed, but these strategies need Flower {SUPPORTED}.x; "
            f"run: pip install 'flwr~={SUPPORTED}.0'.",
        )


try:
    from flwr.app.message.message import make_message
    from flwr.serverapp.strategy.strategy_utils import (
        aggregate_metricrecords,
        log_strategy_start_info,
    )
    from flwr.supercore.logger import log
except ImportError:
    # A version that moved its internals is, first of all, an unsupported version.
    require_supported()
    raise

__all__ = [
    "aggregate_metricrecords",
    "log",
    "log_strategy_start_info",
    "require_supported",
    "with_content",
]


def with_content(message: Message, content: RecordDict) -> Message:
    """Return the same message, its metadata included, with other content."""
    return make_message(message.metadata, content)
