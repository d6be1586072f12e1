"""When certificates are renewed, and the server's own identity on disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from portico.certificates.issue import Identity, Issuer
from portico.certificates.trust import parse_certificates, private_pem, to_pem
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import private_directory, read_file, write_file
from portico.settings.rules.certificates import names_cover

SERVER_NAME = "server.pem"


def renewal_time(not_before: datetime, not_after: datetime, renew_before_days: int) -> datetime:
    """When a certificate is to be renewed: that many days before its end, but never in the first two thirds of its
    life, or one that lives shorter than `renew_before_days` would be renewed for ever.
    """
    return max(not_after - timedelta(days=renew_before_days), not_before + (not_after - not_before) * 2 / 3)


def is_due(certificate: x509.Certificate, renew_before_days: int, now: datetime) -> bool:
    """Whether a certificate should be renewed now (or is not valid at all)."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now < begin or now >= renewal_time(begin, end, renew_before_days)


def covers(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate's alternative names cover a host name (one wildcard label, RFC 6125) or address."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    dns = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return names_cover((*dns, *addresses), host)


def load_identity(path: Path) -> Identity:
    """A certificate chain and its private key from one PEM file.

    Raises:
        PorticoError: of `read_file`; InvalidInput with code IDENTITY_DAMAGED. Each names the file.
    """
    data = read_file(path)
    try:
        certificates = parse_certificates(data, source=str(path))
        key = serialization.load_pem_private_key(data, password=None)
        matches = key.public_key() == certificates[0].public_key()
    except PorticoError as error:
        raise _damaged(path, error.why) from None
    except Exception as error:
        raise _damaged(path, f"its private key cannot be decoded ({type(error).__name__})") from None
    if not matches:
        raise _damaged(path, "its private key and its certificate do not belong together")
    return Identity(certificates[0], to_pem(*certificates), private_pem(key))


@dataclass(frozen=True)
class ServerIdentity:
    """The server's certificate and whether and why it was made just now."""

    identity: Identity
    reissued: bool
    reason: str


def ensure_server_identity(
    directory: Path,
    issuer: Issuer,
    *,
    connect_to: str,
    days: int,
    renew_before_days: int,
    now: datetime,
    former: Identity | None = None,
) -> ServerIdentity:
    """The server's certificate from the built-in CA; made anew when missing, damaged, due, foreign or for another name.

    Args:
        former: the one in use, which stays while its file cannot be written.

    Raises:
        PorticoError: no certificate can be issued and the one there is cannot be used. A usable one that is only due is
            returned instead, with the reason. A new one that cannot be stored serves all the same.
    """
    path = private_directory(directory) / SERVER_NAME
    current: Identity | None = None
    try:
        current = load_identity(path)
        reason = _why_not(current.certificate, issuer, connect_to, renew_before_days, now)
    except NotFound:
        reason = "there was none"
    except PorticoError as error:
        reason = error.why
    if current is not None and not reason:
        return ServerIdentity(current, False, "")
    try:
        identity = issuer.server(connect_to, days=days, now=now)
    except PorticoError as error:
        if current is not None and _usable(current.certificate, issuer, connect_to, now):
            return ServerIdentity(current, False, f"{reason}, but it could not be renewed: {error}")
        raise
    try:
        write_file(path, (identity.key_pem + identity.chain_pem).encode())
    except PorticoError as error:
        text = f"{reason}, and the new one could not be stored: {error}"
        for other in (current, former):
            if other is not None and _usable(other.certificate, issuer, connect_to, now):
                return ServerIdentity(other, False, text)
        return ServerIdentity(identity, True, text)
    return ServerIdentity(identity, True, reason)


def _why_not(certificate: x509.Certificate, issuer: Issuer, connect_to: str, days: int, now: datetime) -> str:
    if not issuer.authority.issued(certificate):
        return "another CA had issued it"
    if not covers(certificate, connect_to):
        return f"it was not for {connect_to}"
    if is_due(certificate, days, now):
        return f"it ends on {certificate.not_valid_after_utc:%Y-%m-%d}"
    return ""


def _usable(certificate: x509.Certificate, issuer: Issuer, connect_to: str, now: datetime) -> bool:
    valid = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    return valid and issuer.authority.issued(certificate) and covers(certificate, connect_to)


def _damaged(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"the certificate and key in {path} cannot be used",
        why=why,
        resolution="Restore the file, or enrol or issue again",
        code="IDENTITY_DAMAGED",
    )
