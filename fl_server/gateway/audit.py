"""The audit log: one JSON line per call, for operators.

A line names the method, outcome code, client and trace id. Who the caller said it was and did not
prove stands under ``claimed_client``: anybody can say it. A line never holds a token, a key, a
ticket or a sample count, so the log may be kept and shipped.

The outcome is "OK", the code of the refusal, or "CANCELLED": the caller hung up, its deadline
passed or the gateway stopped, and what it asked for may have been done all the same.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

import structlog

from fl_protocol.storage import storage_failure, stored

CANCELLED = "CANCELLED"

_NAME = "The audit log"

_logger = logging.getLogger(__name__)


class AuditLog:
    """Append-only JSON lines, mode 0600; one writer.

    A call that has been answered has been answered, also if the disk does not take its line. Such
    calls are counted, and `require` refuses further ones until a line could be written that says
    how many have none.

    Parameters
    ----------
    path : Path
        Log file; created when missing.

    Raises
    ------
    StorageFailed
        ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        with stored(f"{_NAME} {path}"):
            self._lines = _Lines(path)
        self._missing, self._cause = 0, ""
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(cast(TextIO, self._lines)),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        )

    def require(self) -> None:
        """Insist that a call can be written down before anything is done for it.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: calls before it have no line, and the disk does
            not take one that says so.
        """
        if not self._missing:
            return
        with stored(_NAME):
            self._log.msg("audit", code=self._cause, detail=f"{self._missing} calls have no line")
        self._missing = 0

    def record(
        self,
        method: str,
        code: str,
        *,
        client: str = "",
        claimed_client: str = "",
        trace_id: str = "",
        detail: str = "",
    ) -> None:
        """Write one line.

        Parameters
        ----------
        method : str
            RPC name.
        code : str
            The outcome.
        client, claimed_client, trace_id, detail : str
            Who, who without proof, which trace, and the refusal's sentence; empty when unknown.
        """
        fields = {
            "client": client,
            "claimed_client": claimed_client,
            "trace_id": trace_id,
            "detail": detail,
        }
        try:
            self._log.msg(method, code=code, **{k: v for k, v in fields.items() if v})
        except OSError as error:
            if not self._missing:
                _logger.error("%s could not be written: %s", _NAME, error.strerror)
                self._cause = storage_failure(_NAME, error).code
            self._missing += 1

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class _Lines:
    """The end of a file, to which a line is added whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, line: str) -> None:
        rest = memoryview(line.encode())
        written = 0
        try:
            while len(rest) > written:
                written += os.write(self._handle, rest[written:])
        except OSError:
            # What follows the part of a line could not be read, either.
            with suppress(OSError):
                os.ftruncate(self._handle, os.fstat(self._handle).st_size - written)
            raise

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        os.close(self._handle)
