"""Certificates that their issuers took back, by the lists a relying party names.

Source: RFC 5280, sections 5 and 6.3. Only complete lists by the issuer of the certificates are
understood; delta, partitioned and indirect lists are refused by their critical extensions.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryptography import x509

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.certificates import NOT_ISSUED

# The longest list that Intel published in 2025 had some 3 KB.
MAX_LIST_BYTES = 256 << 10

_BEGIN = b"-----BEGIN"


@dataclass(frozen=True)
class RevocationLists:
    """Lists of revoked certificates that a chain is held against.

    Every issuer of the chain whose key usage has cRLSign must have a list here. Intel's root and
    intermediates have it; of AMD's only the root (ARK), so that a VCEK is never looked up.

    Parameters
    ----------
    lists : tuple of CertificateRevocationList
        Those of issuers outside the chain are ignored.
    dated : bool
        Whether a list must be of the time at which a chain is judged.

    Raises
    ------
    ValueError
        A list has no nextUpdate, or has a critical extension.
    """

    lists: tuple[x509.CertificateRevocationList, ...]
    dated: bool = True

    def __post_init__(self) -> None:
        for revoked in self.lists:
            _require_complete(revoked)

    def check(
        self, chain: Sequence[x509.Certificate], now: float
    ) -> tuple[x509.CertificateRevocationList, ...]:
        """Look every certificate of a chain up in the lists of its issuer.

        Parameters
        ----------
        chain : sequence of Certificate
            From the leaf to the root, which issued itself.
        now : float
            Unix seconds.

        Returns
        -------
        tuple of CertificateRevocationList
            Those of the chain's issuers.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_REVOCATION_LIST``: an issuer's list is missing or not signed by it.
            ``EVIDENCE_EXPIRED``: a list is out of date. ``EVIDENCE_REVOKED``.
        """
        for certificate, issuer in zip(chain, (*chain[1:], chain[-1]), strict=True):
            for revoked in self._of(issuer):
                _require_signed(revoked, issuer)
                if self.dated:
                    _require_current(revoked, now)
                if revoked.get_revoked_certificate_by_serial_number(certificate.serial_number):
                    raise EvidenceRejected(
                        Code.EVIDENCE_REVOKED,
                        f"{issuer_name(revoked)} has revoked the certificate with serial number "
                        f"{certificate.serial_number:x} in the evidence's chain.",
                    )
        issuers = {issuer.subject for issuer in chain[1:]}
        return tuple(revoked for revoked in self.lists if revoked.issuer in issuers)

    def _of(self, issuer: x509.Certificate) -> list[x509.CertificateRevocationList]:
        found = [revoked for revoked in self.lists if revoked.issuer == issuer.subject]
        if not found and _may_sign_lists(issuer):
            raise EvidenceRejected(
                Code.EVIDENCE_REVOCATION_LIST,
                f"revocation_lists has no list by {issuer.subject.rfc4514_string()}.",
            )
        return found


def read_list(data: bytes) -> x509.CertificateRevocationList:
    """Read one revocation list, PEM or DER, of at most 256 KiB; raises ValueError."""
    if len(data) > MAX_LIST_BYTES:
        raise ValueError(f"a revocation list has at most {MAX_LIST_BYTES} bytes")
    if _BEGIN not in data:
        return x509.load_der_x509_crl(data)
    if data.count(_BEGIN) != 1:
        raise ValueError("one revocation list a file")
    return x509.load_pem_x509_crl(data)


def issuer_name(revoked: x509.CertificateRevocationList) -> str:
    """Return the name of a list's issuer (RFC 4514)."""
    return revoked.issuer.rfc4514_string()


def _require_complete(revoked: x509.CertificateRevocationList) -> None:
    # RFC 5280, sections 5.2 and 5.3: with a critical extension nobody here processes, a list says
    # nothing. Those that make a list delta, partitioned or indirect are critical.
    if revoked.next_update_utc is None:
        raise ValueError(f"the list of {issuer_name(revoked)} has no nextUpdate")
    try:
        critical = any(extension.critical for extension in _extensions(revoked))
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"the list of {issuer_name(revoked)}: {error}") from error
    if critical:
        raise ValueError(f"the list of {issuer_name(revoked)} has a critical extension")


def _extensions(
    revoked: x509.CertificateRevocationList,
) -> Iterator[x509.Extension[x509.ExtensionType]]:
    yield from revoked.extensions
    for entry in revoked:
        yield from entry.extensions


def _require_signed(revoked: x509.CertificateRevocationList, issuer: x509.Certificate) -> None:
    try:
        key = issuer.public_key()
        # Keys that cannot sign raise TypeError.
        signed = _may_sign_lists(issuer) and revoked.is_signature_valid(key)  # type: ignore[arg-type]
    except NOT_ISSUED:
        signed = False
    if not signed:
        raise EvidenceRejected(
            Code.EVIDENCE_REVOCATION_LIST,
            f"The revocation list of {issuer_name(revoked)} is not signed by that issuer in the "
            "evidence's chain.",
        )


def _require_current(revoked: x509.CertificateRevocationList, now: float) -> None:
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    until = revoked.next_update_utc
    assert until is not None  # no other gets into RevocationLists
    if not revoked.last_update_utc <= moment <= until:
        raise EvidenceRejected(
            Code.EVIDENCE_EXPIRED,
            f"The revocation list of {issuer_name(revoked)} is out of date: it is of "
            f"{revoked.last_update_utc:%Y-%m-%d}, the next one due {until:%Y-%m-%d}.",
        )


def _may_sign_lists(issuer: x509.Certificate) -> bool:
    # RFC 5280, section 6.3.3 (f)
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.crl_sign
