"""Versions that an Intel PCK certificate certifies for a processor.

Source: Intel SGX PCK Certificate and CRL Profile Specification, section 1.3.5 (extension
1.2.840.113741.1.13.1). The object identifiers are compared in their DER form.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509

from tee_sim.quotes.chains import extension

_SGX_EXTENSION = "1.2.840.113741.1.13.1"
_PREFIX = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1
_TCB, _PCE_SVN = 2, 17
_COMPONENTS = range(1, 17)
_SEQUENCE, _OID = 0x30, 0x06


def certified_tcb(certificate: x509.Certificate) -> dict[str, int]:
    """Return ``cpu_svn_01`` to ``cpu_svn_16`` and ``pce_svn``.

    Raises
    ------
    ValueError
        It is no PCK certificate.
    """
    members = _pairs(_single(extension(certificate, _SGX_EXTENSION)))
    versions = _pairs(members[_PREFIX + bytes([_TCB])])
    prefix = _PREFIX + bytes([_TCB])
    names = {f"cpu_svn_{n:02}": n for n in _COMPONENTS} | {"pce_svn": _PCE_SVN}
    return {name: int.from_bytes(versions[prefix + bytes([n])]) for name, n in names.items()}


def _single(data: bytes) -> bytes:
    ((tag, value),) = _items(data)
    if tag != _SEQUENCE:
        raise ValueError("not a sequence")
    return value


def _pairs(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for tag, value in _items(data):
        pair = list(_items(value)) if tag == _SEQUENCE else []
        if len(pair) != 2 or pair[0][0] != _OID or pair[0][1] in found:
            raise ValueError("not pairs of an identifier and a value")
        found[pair[0][1]] = pair[1][1]
    return found


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        tag, length = data[position], data[position + 1]
        position += 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[position : position + size])
            position += size
        if position + length > len(data):
            raise ValueError("shorter than its fields")
        yield tag, data[position : position + length]
        position += length
