"""Certificates and keys as PEM text: reading, writing, identifying, pinning."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID

from portico.errors import InvalidInput

MAXIMUM_CERTIFICATES = 100

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/=\s]+?-----END CERTIFICATE-----", flags=re.ASCII)


def private_pem(key: PrivateKeyTypes) -> str:
    """A private key as unencrypted PKCS #8 PEM; whoever stores it sees to it that only its owner reads it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def name_text(name: x509.Name) -> str:
    """A distinguished name as people read it (RFC 4514), with words for the attributes Portico uses."""
    return name.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})


def parse_certificates(pem: bytes | str, *, source: str = "the PEM text") -> list[x509.Certificate]:
    """All certificates of a PEM text, at least one, in order; text around the blocks is ignored.

    Raises:
        InvalidInput: codes PEM_NO_CERTIFICATE, PEM_TRUNCATED, PEM_DAMAGED, PEM_TOO_MANY; the message names `source`.
    """
    data = pem.encode() if isinstance(pem, str) else pem
    what = f"{source} cannot be used"
    begins = data.count(b"-----BEGIN CERTIFICATE-----")
    blocks = _BLOCK.findall(data)
    if not begins:
        why = "it holds a private key only" if b"PRIVATE KEY-----" in data else "it holds no PEM certificate"
        raise InvalidInput(
            what, why=why, resolution="Give a file with '-----BEGIN CERTIFICATE-----'", code="PEM_NO_CERTIFICATE"
        )
    if begins > MAXIMUM_CERTIFICATES:
        raise InvalidInput(
            what,
            why=f"it holds more than {MAXIMUM_CERTIFICATES} certificates",
            resolution="Give only the certificates that are needed",
            code="PEM_TOO_MANY",
        )
    if begins != len(blocks):
        number = len(blocks) + 1
        raise InvalidInput(
            what,
            why=f"certificate {number} has no end or holds other characters than base64; the file may be truncated",
            resolution="Copy the file again from where it was issued",
            code="PEM_TRUNCATED",
        )
    certificates = []
    for number, block in enumerate(blocks, start=1):
        try:
            certificate = x509.load_pem_x509_certificate(block)
            # Extensions and names are parsed on first use; a certificate that fails later is damaged now.
            _ = (certificate.extensions, certificate.subject, certificate.issuer, certificate.not_valid_after_utc)
            certificate.public_key()
        except Exception as error:
            raise InvalidInput(
                what,
                why=f"certificate {number} cannot be decoded ({type(error).__name__}: {error})",
                resolution="Copy the file again from where it was issued",
                code="PEM_DAMAGED",
            ) from None
        certificates.append(certificate)
    return certificates


def to_pem(*certificates: x509.Certificate) -> str:
    """Certificates as one PEM text, in the order given."""
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates)


def pin(pem: bytes | str) -> str:
    """SHA-256 over the DER forms of all certificates of a PEM text, in order, as lower-case hex.

    White space and comments of the text do not change it.

    Raises:
        InvalidInput: as `parse_certificates`.
    """
    digest = hashlib.sha256()
    for certificate in parse_certificates(pem):
        digest.update(certificate.public_bytes(serialization.Encoding.DER))
    return digest.hexdigest()


def name_sha256(name: x509.Name) -> str:
    """SHA-256 of a name's DER form as lower-case hex: how the gateway identifies an issuer."""
    return hashlib.sha256(name.public_bytes()).hexdigest()


def serial_hex(serial: int) -> str:
    """A serial number in lower-case hex without leading zeros: how the gateway writes it."""
    return format(serial, "x")


def common_name(name: x509.Name) -> str | None:
    """The (last) common name of a subject, None without one."""
    values = [attribute.value for attribute in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return str(values[-1]) if values else None


def merge(pems: Iterable[str]) -> str:
    """One PEM text with every certificate once, in order of first appearance."""
    seen: dict[bytes, x509.Certificate] = {}
    for pem in pems:
        for certificate in parse_certificates(pem):
            seen.setdefault(certificate.public_bytes(serialization.Encoding.DER), certificate)
    return to_pem(*seen.values())
