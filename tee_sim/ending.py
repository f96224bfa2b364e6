"""Why an enclave ends of itself; its exit status tells the launcher."""

from __future__ import annotations

from enum import IntEnum


class Ending(IntEnum):
    """Exit status of an enclave."""

    DONE = 0
    FAILED = 1
    CLOCK_SET_BACK = 3


class EnclaveSpent(BaseException):
    """The enclave has to end, and all that it kept to itself with it.

    Parameters
    ----------
    ending : Ending
        Its exit status.
    """

    def __init__(self, ending: Ending = Ending.DONE) -> None:
        super().__init__(ending.name)
        self.ending = ending
