"""Certificate chains of the vendors: leaf (PCK or VCEK), intermediate, pinned root.

Roots are pinned by the SHA-256 of their SubjectPublicKeyInfo. The digests below were computed from
the chains of recorded quotes, so they are as good as those recordings: compare them with the roots
the vendors publish before you rely on them.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.certificates import NOT_ISSUED, check_path, read_certificates

# "Intel SGX Root CA", which also certifies TDX; valid to the end of 2049.
INTEL_ROOT_KEYS = frozenset({"a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"})
# "ARK-Milan". Other generations have other roots and are refused until one is pinned.
AMD_ROOT_KEYS = frozenset({"9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"})

CHAIN_LENGTH = 3
_END = b"-----END CERTIFICATE-----\n"


def read_pem_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read exactly three PEM certificates in their one canonical spelling, leaf first.

    PEM tolerates white space and text around it; anything of the kind is refused, because it
    would let bytes change under a valid signature.

    Raises
    ------
    ValueError
        The bytes are anything else.
    """
    if data.count(_END) != CHAIN_LENGTH or not data.endswith(_END):
        raise ValueError("not three certificates")
    chain = tuple(_read(part + _END) for part in data.split(_END)[:CHAIN_LENGTH])
    if b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain) != data:
        raise ValueError("not the canonical spelling of certificates")
    return chain


def key_digest(certificate: x509.Certificate) -> str:
    """Return the hexadecimal SHA-256 of a certificate's SubjectPublicKeyInfo."""
    key = certificate.public_key()
    return hashlib.sha256(
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def leaf_key(
    chain: Sequence[x509.Certificate], root_keys: frozenset[str], curve: type[ec.EllipticCurve]
) -> ec.EllipticCurvePublicKey:
    """Check a chain's signatures up to a pinned root and return the leaf's key.

    Follows RFC 5280, section 6.1, for chains of exactly three; validity times are checked by
    `check_validity`, revocation by `RevocationLists`.

    Raises
    ------
    EvidenceRejected
        ``EVIDENCE_CHAIN``.
    """
    try:
        _require(len(chain) == CHAIN_LENGTH, "the certificate chain is missing or incomplete")
        _require(key_digest(chain[-1]) in root_keys, "the chain ends at a root nobody pinned")
        chain[-1].verify_directly_issued_by(chain[-1])
        check_path(chain)
        for issuer in chain[1:]:
            # RFC 5280 asks for it only where it is; the vendors' authorities all have it.
            issuer.extensions.get_extension_for_class(x509.KeyUsage)
        key = chain[0].public_key()
    except NOT_ISSUED as error:
        raise EvidenceRejected(Code.EVIDENCE_CHAIN, _sentence(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        raise EvidenceRejected(Code.EVIDENCE_CHAIN)
    return key


def check_validity(chain: Sequence[x509.Certificate], now: float) -> None:
    """Refuse certificates out of date.

    Parameters
    ----------
    chain : sequence of Certificate
        All certificates.
    now : float
        Unix seconds.

    Raises
    ------
    EvidenceRejected
        ``EVIDENCE_EXPIRED``.
    """
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    for certificate in chain:
        if not certificate.not_valid_before_utc <= moment <= certificate.not_valid_after_utc:
            raise EvidenceRejected(Code.EVIDENCE_EXPIRED)


def extension(certificate: x509.Certificate, oid: str) -> bytes:
    """Return the raw value of a vendor's extension; raises ValueError when there is none."""
    try:
        found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
    except x509.ExtensionNotFound as error:
        raise ValueError(f"the certificate has no extension {oid}") from error
    if not isinstance(found, x509.UnrecognizedExtension):
        raise ValueError(f"the extension {oid} is not a vendor's")
    return found.value


def check_signature(
    key: ec.EllipticCurvePublicKey,
    r: int,
    s: int,
    message: bytes,
    algorithm: hashes.HashAlgorithm,
    what: str,
) -> None:
    """Check an ECDSA signature; raises EvidenceRejected ``EVIDENCE_CHAIN`` naming `what`."""
    try:
        key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise EvidenceRejected(Code.EVIDENCE_CHAIN, f"The signature of {what} is wrong.") from error


def _read(pem: bytes) -> x509.Certificate:
    certificate = read_certificates(pem)[0]
    # The signature is a bit string; its count of unused bits is not signed and must be zero.
    if certificate.public_bytes(Encoding.DER)[-len(certificate.signature) - 1] != 0:
        raise ValueError("a certificate is not DER")
    return certificate


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def _sentence(error: Exception) -> str:
    reason = str(error) if type(error) is ValueError else "a certificate's signature is wrong"
    return f"The evidence is not signed by a platform with a trusted root: {reason}."
