"""Certificates of whoever is no CA (RFC 5280): servers, remote computers, administrators, members of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from portico.certificates.ca import CertificateAuthority
from portico.errors import InvalidInput

LONGEST_COMMON_NAME: Final = 64
"""ub-common-name, RFC 5280 appendix A.1."""
UNNAMED: Final = "Portico server"
"""The common name of a server whose own name is longer. A part of a name would be the name of another server."""


def end_entity(
    authority: CertificateAuthority,
    key: CertificatePublicKeyTypes,
    name: str,
    *,
    days: int,
    now: datetime,
    purposes: Sequence[x509.ObjectIdentifier],
    names: Sequence[x509.GeneralName] = (),
) -> x509.Certificate:
    """A certificate for a key.

    Args:
        name: the common name. Whoever has `names` is known by those, and may have a longer one.
        purposes: extended key usages.
        names: alternative names, without duplicates.

    Raises:
        InvalidInput: code CA_EXPIRED; COMMON_NAME_TOO_LONG for somebody who is known by nothing else.
    """
    if len(name) > LONGEST_COMMON_NAME:
        if not names:
            raise InvalidInput(
                "The certificate cannot be made",
                why=f"a common name has at most {LONGEST_COMMON_NAME} characters, and '{name[:100]}' has {len(name)}",
                resolution="Use a shorter name",
                code="COMMON_NAME_TOO_LONG",
            )
        name = UNNAMED
    begin, end = authority.window(now, days)
    builder = (
        x509.CertificateBuilder()
        # A certificate with alternative names but no subject is refused by Windows' wizard and by some clients.
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signature_only(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return authority.sign(builder)


def _signature_only() -> x509.KeyUsage:
    """ECDSA keys sign and do nothing else (RFC 5280 section 4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
