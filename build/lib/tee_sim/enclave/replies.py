"""What the enclave answers a request with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fl_protocol.codes import AsynclaveError
from fl_protocol.encoding import b64url
from fl_protocol.signatures import Signed


@dataclass(frozen=True)
class Reply:
    """A reply's header and body."""

    header: dict[str, Any]
    body: memoryview | bytes = b""


def signed_reply(signed: Signed, body: memoryview | bytes = b"") -> Reply:
    """Return a reply that carries one signed record."""
    return Reply({"ok": True, **members_of(signed)}, body)


def refusal(error: AsynclaveError) -> Reply:
    """Return a reply that says what was refused and why."""
    return Reply({"ok": False, "code": error.code, "sentence": error.sentence})


def signed_refusal(error: AsynclaveError, signed: Signed) -> Reply:
    """Return a refusal with the record of it."""
    return Reply({**refusal(error).header, **members_of(signed)})


def members_of(signed: Signed) -> dict[str, str]:
    """Return a signed record as members of a header."""
    return {"payload": b64url(signed.payload), "signature": b64url(signed.signature)}
