"""The audit log: one JSON line per call, for operators.

A line names the method, outcome code, client and trace id. Who the caller said it was and did not
prove stands under ``claimed_client``: anybody can say it. A line never holds a token, a key, a
ticket or a sample count, so the log may be kept and shipped.

The outcome is "OK", the code of the refusal, or "CANCELLED": the caller hung up, its deadline
passed or the gateway stopped, and what it asked for may have been done all the same.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import structlog

CANCELLED = "CANCELLED"


class AuditLog:
    """Append-only JSON lines, mode 0600.

    Parameters
    ----------
    path : Path
        Log file; created when missing.
    """

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = io.TextIOWrapper(
            io.FileIO(descriptor, "a"), encoding="utf-8", write_through=True
        )
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(self._file),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        )

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
        self._log.msg(method, code=code, **{k: v for k, v in fields.items() if v})

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()
