"""The built-in certification authority: one self-signed ECDSA P-256 certificate and its key.

Key and certificate live in one file, so there is no instant at which one exists without the other:

    <directory>/               0700
        authority.pem          0600  private key and certificate
        ca.pem                 0644  the certificate alone, for people; rebuilt from authority.pem
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from portico.certificates.trust import name_sha256, name_text, parse_certificates, private_pem, to_pem
from portico.errors import Conflict, InvalidInput, NotFound, PorticoError
from portico.files import changing, not_written, note_written, private_directory, read_file, write_file

AUTHORITY_NAME = "authority.pem"
PUBLIC_NAME = "ca.pem"
LIFETIME = timedelta(days=3650)
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates begin this long before they are made: a client's clock may be slow."""


@dataclass(frozen=True)
class CertificateAuthority:
    """A CA that can sign. Never printed: its representation omits the key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"CertificateAuthority({name_text(self.certificate.subject)})"

    @classmethod
    def create(
        cls, directory: Path, *, name: str, now: datetime, lifetime: timedelta = LIFETIME
    ) -> CertificateAuthority:
        """Makes a CA in a directory that has none.

        Args:
            name: what the CA is for; the subject is "<name> Portico CA".

        Raises:
            Conflict: code CA_EXISTS; nothing was changed.
            Unavailable: code FILE_NOT_WRITTEN; nothing was changed.
        """
        private_directory(directory)
        path = directory / AUTHORITY_NAME
        if path.exists():
            raise _exists(path)
        if (directory / PUBLIC_NAME).exists():
            raise Conflict(
                "there was a certification authority here, and its key is lost",
                why=f"{directory / PUBLIC_NAME} exists, {path} does not",
                resolution=f"Restore {path.name} from a backup; or give the old CA and its clients up: "
                f"mv {directory / PUBLIC_NAME} {directory / PUBLIC_NAME}.old",
                code="CA_LOST",
            )
        authority = _generate(name, now, lifetime)
        _write_new(path, authority._private_pem())
        write_file(directory / PUBLIC_NAME, authority.pem.encode(), mode=0o644)
        return authority

    @classmethod
    def load(cls, directory: Path) -> CertificateAuthority:
        """Reads the CA.

        Raises:
            NotFound: code CA_MISSING.
            InvalidInput: code CA_DAMAGED (empty, truncated, garbage, key and certificate do not belong together).
        """
        path = directory / AUTHORITY_NAME
        try:
            data = read_file(path)
        except NotFound:
            raise NotFound(
                f"there is no certification authority in {directory}",
                why=f"{path} does not exist",
                resolution="Make one with: portico ca init, or restore it from a backup",
                code="CA_MISSING",
            ) from None
        except InvalidInput as error:
            raise _damaged(path, error.why) from None
        try:
            certificate = parse_certificates(data, source=str(path))[0]
            key = serialization.load_pem_private_key(data, password=None)
        except PorticoError as error:
            raise _damaged(path, error.why) from None
        except Exception as error:
            raise _damaged(path, f"its private key cannot be decoded ({type(error).__name__})") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _damaged(path, "its private key is not an elliptic curve key")
        if key.public_key() != certificate.public_key():
            raise _damaged(path, "its private key and its certificate do not belong together")
        authority = cls(certificate, key)
        public = directory / PUBLIC_NAME
        try:
            intact = read_file(public) == authority.pem.encode()
        except PorticoError:
            intact = False
        if not intact:
            # It is made from the other file; a CA that can sign is not given up for it.
            with contextlib.suppress(PorticoError):
                write_file(public, authority.pem.encode(), mode=0o644)
        return authority

    @staticmethod
    def public(directory: Path) -> x509.Certificate:
        """The certificate alone, which still tells who is whose when the key is lost.

        Raises:
            PorticoError: of `read_file` and `parse_certificates`; each names the file.
        """
        path = directory / PUBLIC_NAME
        return parse_certificates(read_file(path), source=str(path))[0]

    @property
    def pem(self) -> str:
        """The certificate: what others trust."""
        return to_pem(self.certificate)

    @property
    def issuer_sha256(self) -> str:
        """How the gateway names this CA."""
        return name_sha256(self.certificate.subject)

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether this CA signed the certificate."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Adds issuer and authority key identifier and signs."""
        builder = builder.issuer_name(self.certificate.subject).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        return builder.sign(self.key, hashes.SHA256())

    def window(self, now: datetime, days: int) -> tuple[datetime, datetime]:
        """Begin and end (UTC, whole seconds) of a certificate made now, within the CA's own lifetime.

        Raises:
            InvalidInput: code CA_EXPIRED.
        """
        now = now.astimezone(UTC).replace(microsecond=0)
        if not self.certificate.not_valid_before_utc <= now < self.certificate.not_valid_after_utc:
            raise InvalidInput(
                "no certificate can be issued",
                why=f"the CA is valid from {self.certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
                f"to {self.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}",
                resolution="Correct the clock, or make a new CA and enrol the clients again",
                code="CA_EXPIRED",
            )
        begin = max(now - CLOCK_SKEW, self.certificate.not_valid_before_utc)
        return begin, min(now + timedelta(days=days), self.certificate.not_valid_after_utc)

    def _private_pem(self) -> bytes:
        return (private_pem(self.key) + self.pem).encode()


def _generate(name: str, now: datetime, lifetime: timedelta) -> CertificateAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    # X.520 limits a common name to 64 characters. The random serial in the subject keeps two CAs of the same
    # deployment apart: revocation is by issuer name and serial number.
    serial = x509.random_serial_number()
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name[:50]} Portico CA"),
            x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, format(serial, "x")[:16]),
        ]
    )
    begin = now.astimezone(UTC).replace(microsecond=0) - CLOCK_SKEW
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(begin + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateAuthority(certificate, key)


def _write_new(path: Path, data: bytes) -> None:
    """Writes a file that must not exist yet: complete and 0600 before it gets its name."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with changing:
                os.link(temporary, path)
                note_written(path, data)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise not_written(path, error) from None


def _exists(path: Path) -> Conflict:
    return Conflict(
        "there is a certification authority already",
        why=f"{path} exists",
        resolution="Use it, or move it away first: clients that it enrolled will no longer be accepted",
        code="CA_EXISTS",
    )


def _damaged(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"the certification authority {path} cannot be used",
        why=why,
        resolution=f"Restore {path.name} from a backup; tunnels of clients that are enrolled go on meanwhile",
        code="CA_DAMAGED",
    )
