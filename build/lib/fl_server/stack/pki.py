"""A local certificate authority and the server certificates it issues."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import LocalDisk

_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class ServerCertificate:
    """Paths of a TLS identity and the authority that vouches for it, all PEM."""

    ca: Path
    certificate: Path
    key: Path


class Authority:
    """A certificate authority.

    Parameters
    ----------
    key : ec.EllipticCurvePrivateKey
        Its private key.
    certificate : x509.Certificate
        Its self-signed certificate.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key, self._certificate = key, certificate

    @classmethod
    def create(cls, now: datetime.datetime, days: int = 90) -> Self:
        """Make an authority that is valid for some days from `now` (time zone aware)."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Asynclave local CA")])
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            _builder(name, name, key.public_key(), now, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote; raises ConfigInvalid."""
        try:
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("its key is of another kind")
        except (OSError, ValueError, TypeError) as error:
            raise ConfigInvalid(
                Code.CONFIG_INVALID, f"{directory} holds no certificate authority: {error}"
            ) from None
        return cls(key, certificate)

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(_PEM)

    def save(self, directory: Path) -> None:
        """Write ca.pem and ca.key (0600)."""
        LocalDisk().write_atomic(directory / "ca.key", _private_pem(self._key))
        LocalDisk().write_atomic(directory / "ca.pem", self.pem, 0o644)

    def issue(
        self,
        directory: Path,
        hosts: tuple[str, ...],
        now: datetime.datetime,
        days: int = 90,
    ) -> ServerCertificate:
        """Make a key and a server certificate for it.

        Parameters
        ----------
        directory : Path
            Receives ca.pem, server.pem and server.key (0600).
        hosts : tuple of str
            DNS names and IP addresses the server answers to.
        now : datetime.datetime
            Start of validity, time zone aware.
        days : int
            Length of validity.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Asynclave gateway")])
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        certificate = (
            _builder(name, self._certificate.subject, key.public_key(), now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .add_extension(purpose, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        paths = ServerCertificate(
            directory / "ca.pem", directory / "server.pem", directory / "server.key"
        )
        disk = LocalDisk()
        disk.write_atomic(paths.ca, self.pem, 0o644)
        disk.write_atomic(paths.certificate, certificate.public_bytes(_PEM), 0o644)
        disk.write_atomic(paths.key, _private_pem(key))
        return paths


def create_server_certificate(
    directory: Path, hosts: tuple[str, ...], now: datetime.datetime
) -> ServerCertificate:
    """Create an authority and one server certificate; parameters as for `Authority.issue`.

    The authority's key is not kept: nothing else can ever be issued under it.
    """
    return Authority.create(now).issue(directory, hosts, now)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Five minutes of grace for a client whose clock runs behind.
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
