"""Unpadded base64url, one spelling only (RFC 7515, section 2)."""

from __future__ import annotations

import base64
import binascii

_TO_URL = bytes.maketrans(b"+/", b"-_")


def b64url(data: bytes) -> str:
    """Encode without padding."""
    text = binascii.b2a_base64(data, newline=False).translate(_TO_URL, b"=")
    return text.decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Decode the one canonical spelling.

    Raises
    ------
    ValueError
        For padding, white space, characters outside the alphabet, an impossible length, or
        unused bits that are not zero: several texts would otherwise mean the same bytes.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64url") from error
    if b64url(data) != text:
        raise ValueError("not canonical base64url")
    return data
