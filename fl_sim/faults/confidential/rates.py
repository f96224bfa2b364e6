"""What goes wrong on the confidential path, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConfidentialRates:
    """How often a fault strikes.

    Attributes
    ----------
    crash : float
        Per operation of a disk, and per call for who makes it and for the gateway: that machine
        dies before it, in the middle of it or after it.
    full, failing : float
        Per write, and per sync the latter: the disk is full, or fails with EIO, for a while.
    enclave : float
        Per request to the enclave: it dies before it has answered, or the answer is lost with it.
    lose_request, lose_reply : float
        Per call: it never arrives, or is served and the reply never comes.
    repeat, replay : float
        Per call: it arrives twice, or is sent again by somebody who listened, up to 25 s later.
    replay_hop : float
        Per request to the enclave: the host sends the very same one again.
    old_token : float
        Per call: a node presents an access token from long ago.
    used_ticket : float
        Per minute: a stranger tries a ticket that a node has redeemed.
    rotation : float
        Per minute: the gateway signs access tokens with a new key.
    clock_step : float
        Per minute: the clock of the gateway's and the enclaves' machine, of server or a node is
        off by up to an hour, for a while.
    corrupt : float
        Per update: it holds NaN.
    """

    crash: float = 0.001
    full: float = 0.001
    failing: float = 0.001
    enclave: float = 0.002
    lose_request: float = 0.01
    lose_reply: float = 0.01
    repeat: float = 0.02
    replay: float = 0.02
    replay_hop: float = 0.02
    old_token: float = 0.01
    used_ticket: float = 0.1
    rotation: float = 0.05
    clock_step: float = 0.1
    corrupt: float = 0.02
