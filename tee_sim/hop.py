"""The signed hop from the gateway to the launcher and the enclave behind it.

Each request carries, beside its operation and parameters, a member ``hop`` and its MAC:

::

    hop = {path, time, nonce, traceparent, body}
    mac = HMAC-SHA256(key, "asynclave/hop/v1" 0x00 || canonical JSON of the request without mac)

``path`` is the gRPC method that is being served, ``time`` Unix seconds, ``nonce`` 16 random bytes
and ``body`` the SHA-256 of the body, all hexadecimal where binary; ``traceparent`` is that of W3C
Trace Context. The body of a sealed update is stood for by its GCM tags, which its sender signed:
hashing it would cost more than opening it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fl_protocol import canonical
from fl_protocol.codes import Code, HopRejected
from fl_protocol.ports import Clock, Rng
from fl_protocol.replay import ReplayMemory

KEY_BYTES = 32
WINDOW = 60
NO_BODY = hashlib.sha256().digest()

_DOMAIN = b"asynclave/hop/v1\0"
_NONCE_BYTES = 16
# Nonces are remembered: longer ones would fill the memory with fewer requests.
_NONCE = re.compile(rf"[0-9a-f]{{{2 * _NONCE_BYTES}}}")
_MEMBERS = {"path", "time", "nonce", "traceparent", "body"}


@dataclass(frozen=True)
class Origin:
    """The call that a request serves: full gRPC method, and trace id of 32 hexadecimal digits."""

    path: str = "/"
    trace_id: str = "0" * 31 + "1"


_NOBODY = Origin()
# Set by the gateway per call; a request made on nobody's behalf has the default.
origin: ContextVar[Origin] = ContextVar("asynclave_origin", default=_NOBODY)


class HopSigner:
    """Signs requests.

    Parameters
    ----------
    key : bytes
        Shared with the launcher, 32 bytes.
    clock, rng : Clock, Rng
        Time and nonces.
    """

    def __init__(self, key: bytes, clock: Clock, rng: Rng) -> None:
        self._key, self._clock, self._rng = key, clock, rng

    def sign(self, request: dict[str, Any], digest: bytes = NO_BODY) -> dict[str, Any]:
        """Return a request with its hop and MAC.

        Parameters
        ----------
        request : dict
            Operation and parameters.
        digest : bytes
            SHA-256 of the body, or of what stands for it.
        """
        call = origin.get()
        hop = {
            "path": call.path,
            "time": int(self._clock.now()),
            "nonce": self._rng.bytes(_NONCE_BYTES).hex(),
            "traceparent": f"00-{call.trace_id}-{self._rng.bytes(8).hex()}-01",
            "body": digest.hex(),
        }
        signed = {**request, "hop": hop}
        return {**signed, "mac": _mac(self._key, signed)}


class HopVerifier:
    """Verifies requests, each of which is good once.

    Parameters
    ----------
    key : bytes
        Shared with the gateway, 32 bytes.
    clock : Clock
        Compared with the request's time, 60 s either way.
    """

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key, self._clock = key, clock
        # A request dated WINDOW ahead stays usable for twice as long.
        self._used = ReplayMemory(2 * WINDOW)

    def verify(self, request: dict[str, Any]) -> None:
        """Check a request but for its body, and use it up.

        Raises
        ------
        HopRejected
            ``HOP_SIGNATURE`` if anything in it was changed, added or left out, ``HOP_STALE`` or
            ``HOP_REPLAYED``.
        """
        members = dict(request)
        mac, hop = members.pop("mac", None), members.get("hop")
        if type(mac) is not str or not hmac.compare_digest(
            mac.encode(), _mac(self._key, members).encode()
        ):
            raise HopRejected(Code.HOP_SIGNATURE)
        if type(hop) is not dict or hop.keys() != _MEMBERS or not _is_nonce(hop["nonce"]):
            raise HopRejected(Code.HOP_SIGNATURE)
        now = self._clock.now()
        if type(hop["time"]) is not int or abs(now - hop["time"]) > WINDOW:
            raise HopRejected(Code.HOP_STALE)
        if not self._used.use(hop["nonce"], now):
            raise HopRejected(Code.HOP_REPLAYED)


def _is_nonce(value: Any) -> bool:
    return type(value) is str and _NONCE.fullmatch(value) is not None


def check_body(request: dict[str, Any], digest: str) -> None:
    """Compare a verified request with the hex SHA-256 of its body; raises ``HOP_BODY``."""
    if request["hop"]["body"] != digest:
        raise HopRejected(Code.HOP_BODY)


def _mac(key: bytes, request: dict[str, Any]) -> str:
    return hmac.digest(key, _DOMAIN + canonical.encode(request), "sha256").hex()
