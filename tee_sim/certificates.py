"""Certificates of the simulated platform: a root made for one deployment, and chains to it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fl_protocol.codes import Code, EvidenceRejected
from fl_protocol.ports import Clock, Disk, LocalDisk, SystemClock

# What the library raises where a certificate was not issued by the one above it.
NOT_ISSUED = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
)

_BEGIN = b"-----BEGIN"
_VALID = datetime.timedelta(days=365)
# A client whose clock runs behind must not refuse a root made a moment ago.
_GRACE = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class SimulatedRoot:
    """Files of a simulated root of trust.

    Parameters
    ----------
    root : Path
        Self-signed root certificate, PEM; clients pin it.
    platform_key : Path
        Raw Ed25519 private key (32 bytes) of the platform, mode 0600.
    platform_chain : Path
        The platform's certificate, PEM, issued by the root.
    """

    root: Path
    platform_key: Path
    platform_chain: Path


def create_root(
    directory: Path, clock: Clock | None = None, disk: Disk | None = None
) -> SimulatedRoot:
    """Make a simulated root and one platform under it, all readable by their owner only.

    The root's key is not kept, so nothing else can be issued under it.

    Parameters
    ----------
    directory : Path
        Receives ``root.pem``, ``platform.key`` and ``platform.pem``.
    clock : Clock, optional
        Start of the year of validity; the system's by default.
    disk : Disk, optional
        The local one by default.

    Returns
    -------
    SimulatedRoot
    """
    disk = disk or LocalDisk()
    now = datetime.datetime.fromtimestamp((clock or SystemClock()).now(), datetime.UTC)
    root_key, platform_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root_name, platform_name = _name("Asynclave simulated root"), _name("Asynclave platform")
    root = _certificate(root_name, root_name, root_key.public_key(), root_key, now, authority=True)
    leaf = _certificate(
        platform_name, root_name, platform_key.public_key(), root_key, now, authority=False
    )
    files = _files_in(directory)
    disk.write_atomic(files.root, root.public_bytes(Encoding.PEM), 0o600)
    disk.write_atomic(files.platform_key, platform_key.private_bytes_raw(), 0o600)
    disk.write_atomic(files.platform_chain, leaf.public_bytes(Encoding.PEM), 0o600)
    return files


def kept_root(
    directory: Path, clock: Clock | None = None, disk: Disk | None = None
) -> SimulatedRoot:
    """Return the root that `create_root` made there before, or a new one if that has expired.

    Whoever pinned it keeps believing the platform after a restart. Parameters are those of
    `create_root`.
    """
    disk, clock = disk or LocalDisk(), clock or SystemClock()
    files = _files_in(directory)
    if all(disk.exists(path) for path in (files.root, files.platform_key, files.platform_chain)):
        root = x509.load_pem_x509_certificate(disk.read(files.root))
        if root.not_valid_after_utc.timestamp() > clock.now():
            return files
    return create_root(directory, clock, disk)


def _files_in(directory: Path) -> SimulatedRoot:
    return SimulatedRoot(
        directory / "root.pem", directory / "platform.key", directory / "platform.pem"
    )


def read_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM text, at least one, or a single one in DER.

    Raises
    ------
    ValueError
        Also for a key or an extension that cannot be decoded or is not supported.
    """
    try:
        if _BEGIN in data:
            certificates = x509.load_pem_x509_certificates(data)
        else:
            certificates = [x509.load_der_x509_certificate(data)]
        for certificate in certificates:
            # Both are decoded when first asked for, and must not surprise a caller later.
            certificate.public_key()
            _ = certificate.extensions
    except (
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        TypeError,
    ) as error:
        raise ValueError(f"a certificate is not supported: {error}") from error
    return tuple(certificates)


def verify_chain(chain: Sequence[str], root_pem: str, now: float) -> Ed25519PublicKey:
    """Check a chain of Ed25519 certificates from leaf up to a pinned root (RFC 5280, section 6).

    Parameters
    ----------
    chain : sequence of str
        PEM certificates, leaf first, root left out; each in its one canonical spelling.
    root_pem : str
        The pinned root.
    now : float
        Unix seconds.

    Returns
    -------
    Ed25519PublicKey
        The leaf's key.

    Raises
    ------
    EvidenceRejected
        ``EVIDENCE_MALFORMED``, ``EVIDENCE_CHAIN`` or ``EVIDENCE_EXPIRED``.
    """
    try:
        certificates = [_read_exact(pem) for pem in chain]
    except ValueError as error:
        raise EvidenceRejected(Code.EVIDENCE_MALFORMED) from error
    try:
        path = [*certificates, read_certificates(root_pem.encode())[0]]
        check_path(path)
        key = path[0].public_key()
    except NOT_ISSUED as error:
        raise EvidenceRejected(Code.EVIDENCE_CHAIN) from error
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceRejected(Code.EVIDENCE_CHAIN)
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    for certificate in path:
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            raise EvidenceRejected(Code.EVIDENCE_EXPIRED)
    return key


def check_path(path: Sequence[x509.Certificate]) -> None:
    """Check that each certificate was issued by the next, which may (RFC 5280, section 6.1).

    Self-issued certificates count for path lengths, and an extension that is critical and none of
    those looked at here is refused, as are policies and names, which these chains do not use.

    Parameters
    ----------
    path : sequence of Certificate
        Leaf first, the trusted root last.

    Raises
    ------
    ValueError
        Or another of `NOT_ISSUED`.
    """
    for certificate in path:
        for each in certificate.extensions:
            if each.critical and not isinstance(each.value, x509.BasicConstraints | x509.KeyUsage):
                raise ValueError(
                    f"a certificate has the critical extension {each.oid.dotted_string}"
                )
    for below, (certificate, issuer) in enumerate(pairwise(path)):
        certificate.verify_directly_issued_by(issuer)
        if not _may_issue(issuer, below):
            raise ValueError("a certificate was issued by something no authority")


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: Ed25519PublicKey,
    signer: Ed25519PrivateKey,
    now: datetime.datetime,
    *,
    authority: bool,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _GRACE)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, None)
    )


def _read_exact(pem: str) -> x509.Certificate:
    # PEM tolerates white space and text around it; evidence must have one spelling only.
    certificate = read_certificates(pem.encode())[0]
    if certificate.public_bytes(Encoding.PEM) != pem.encode():
        raise ValueError("not the canonical spelling of a certificate")
    return certificate


def _may_issue(certificate: x509.Certificate, authorities_below: int) -> bool:
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    usages = [each.value for each in extensions if isinstance(each.value, x509.KeyUsage)]
    return (
        constraints.ca
        and (constraints.path_length is None or authorities_below <= constraints.path_length)
        and all(usage.key_cert_sign for usage in usages)
    )
