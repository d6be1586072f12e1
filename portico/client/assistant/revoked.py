"""The newest revocation list that the server's CA has signed, as far as this computer has got it.

Inside, where the list is needed, there is no tunnel to fetch it through, and a computer may stay inside for months. So
a list that is out of date still counts for what it names: it can only take a proof away, never give one.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from portico.certificates.trust import parse_certificates
from portico.errors import InvalidInput

MAXIMUM = 1 << 20
"""Bytes of a list."""


@dataclass(frozen=True)
class RevocationList:
    """A list whose signature was verified. `number` (RFC 5280 5.2.3) grows with each one."""

    issuer: x509.Name
    serials: frozenset[int]
    number: int = 0

    def names(self, certificate: bytes) -> bool:
        """Whether a certificate (DER) is revoked. Raises ValueError when it is none."""
        found = x509.load_der_x509_certificate(certificate)
        return found.issuer == self.issuer and found.serial_number in self.serials


def parse(pem: str, trust: str) -> RevocationList:
    """Reads a list.

    Args:
        trust: PEM of the CAs of which one must have signed it.

    Raises:
        InvalidInput: code CRL_DAMAGED or CRL_FOREIGN.
    """
    what = "The server's revocation list cannot be used"
    try:
        crl = x509.load_pem_x509_crl(pem.encode())
        serials = frozenset(entry.serial_number for entry in crl)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise InvalidInput(what, why=f"it is damaged ({type(error).__name__})", code="CRL_DAMAGED") from None
    for authority in parse_certificates(trust):
        try:
            if authority.subject == crl.issuer and crl.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
                return RevocationList(crl.issuer, serials, number)
        except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
            continue
    raise InvalidInput(what, why="none of the CAs that this computer trusts signed it", code="CRL_FOREIGN")
