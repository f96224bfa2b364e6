"""What to do when a SuperNode has ended: start it again, after how long, or give up.

Flower answers a node that it does not know exactly as one that it still holds for connected
(`FLEET_NODE_ACTIVATION_FAILED`); only time tells them apart. A SuperLink forgets a node two
heartbeats of 30 s after the last one, so a refusal that lasts longer is meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from fl_protocol.codes import AsynclaveError

ADMISSION_PATIENCE = 75.0
"""Seconds after the first refusal from which on a SuperNode that is refused is given up."""
ADMISSION_PAUSE = 5.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
STEADY = 60.0
"""Seconds a SuperNode must have run for its next end to count as the first."""

_CONNECTION_ERROR = 305
_USAGE = 2
_NODE_ID = re.compile(r"SuperNode ID: (\d{1,20})\b")
_EXIT_CODE = re.compile(r"Exit Code: (\d{1,5})\b")


class NodeCode(StrEnum):
    """Stable codes of a SuperNode that is not started again."""

    NODE_NOT_ADMITTED = "NODE_NOT_ADMITTED"
    NODE_MISCONFIGURED = "NODE_MISCONFIGURED"


class NodeRefused(AsynclaveError):
    """A SuperNode cannot run; `status` is the exit status that says so to whatever started it."""

    @property
    def status(self) -> int:
        """EX_NOPERM or EX_CONFIG of ``sysexits.h``."""
        return 77 if self.code == NodeCode.NODE_NOT_ADMITTED else 78


@dataclass
class Life:
    """What a SuperNode's output said about one life of it.

    Attributes
    ----------
    node_id : int or None
        Id under which the SuperLink admitted it.
    exit_code : int or None
        Flower's exit code; none if a signal, an exception or a 401 ended the SuperNode.
    """

    node_id: int | None = None
    exit_code: int | None = None

    def read(self, line: str) -> None:
        """Learn from a line of output."""
        if found := _NODE_ID.search(line):
            self.node_id = int(found[1])
        if found := _EXIT_CODE.search(line):
            self.exit_code = int(found[1])


class RestartPolicy:
    """Decides about one SuperNode; times are seconds on any clock that only goes forward."""

    def __init__(self) -> None:
        self._crashes = 0
        self._refused_since: float | None = None

    def pause(self, life: Life, status: int, began: float, now: float) -> float:
        """Return the seconds to wait before the next start.

        Parameters
        ----------
        life : Life
            What the SuperNode said.
        status : int
            Its exit status, negative if a signal ended it.
        began, now : float
            When it was started, and when it was found to have ended.

        Raises
        ------
        NodeRefused
            If another start would not help.
        """
        if life.node_id is not None:
            self._refused_since = None
        elif life.exit_code == _CONNECTION_ERROR or status == 0:
            return self._not_admitted(began, now)
        elif life.exit_code is not None or status == _USAGE:
            raise NodeRefused(
                NodeCode.NODE_MISCONFIGURED,
                "the SuperNode cannot run with these arguments and files; its output says why.",
            )
        self._crashes = 0 if now - began >= STEADY else self._crashes + 1
        return min(FIRST_PAUSE * 2.0 ** min(max(self._crashes - 1, 0), 16), LONGEST_PAUSE)

    def _not_admitted(self, began: float, now: float) -> float:
        if self._refused_since is None:
            self._refused_since = now
        # Not its end, which is late on a busy machine: the request was sent in between.
        if began - self._refused_since > ADMISSION_PATIENCE:
            raise NodeRefused(
                NodeCode.NODE_NOT_ADMITTED,
                f"the SuperLink has not admitted this node for {ADMISSION_PATIENCE:g} s, longer "
                "than it holds a lost node for connected: register its key, and check its "
                "certificates and clock.",
            )
        return ADMISSION_PAUSE
