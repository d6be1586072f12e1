"""The CA of administration: it signs the API's server certificates and administrators' certificates, nothing else.

    <state>/management/        0700
        authority.pem ca.pem   the CA, the same on every server of a cluster
        server.pem       0600  this server's key and certificate

It is not the clients' CA: a remote computer's certificate, whatever is in it, is nobody to the API, and an
administrator's opens no tunnel.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from portico.certificates.ca import AUTHORITY_NAME, PUBLIC_NAME, CertificateAuthority
from portico.certificates.end_entity import end_entity
from portico.certificates.issue import client_name, parse_request
from portico.certificates.trust import parse_certificates, pin, private_pem, serial_hex, to_pem
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import private_directory, read_file, remove_file, write_file

SERVER_NAME: Final = "server.pem"
SERVER_DAYS: Final = 90
RENEW = timedelta(days=30)
NAME: Final = "administration"

Address = IPv4Address | IPv6Address


class ManagementAuthority:
    """The CA of one cluster, on this server. Blocking."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority: CertificateAuthority | None = None

    def ensure(self, now: datetime) -> CertificateAuthority:
        """The CA, made when there is none. Raises PorticoError when it is damaged or cannot be written."""
        if self._authority is None:
            try:
                self._authority = CertificateAuthority.load(self.directory)
            except NotFound:
                self._authority = CertificateAuthority.create(self.directory, name=NAME, now=now)
        return self._authority

    def known(self) -> CertificateAuthority | None:
        """The CA where there is one. Raises PorticoError when it is damaged."""
        if self._authority is None and (self.directory / AUTHORITY_NAME).exists():
            self._authority = CertificateAuthority.load(self.directory)
        return self._authority

    def private(self) -> str | None:
        """Key and certificate as they go to another server. Secret."""
        known = self.known()
        return private_pem(known.key) + known.pem if known is not None else None

    def digest(self) -> str:
        """Names the CA and tells nothing about its key; empty without one."""
        known = self.known()
        return pin(known.pem) if known is not None else ""

    def take(self, pem: str) -> bool:
        """Takes another server's CA where there is none here, or theirs is the older one; whether it did.

        So all servers of a cluster end with one, whichever asks which. Raises InvalidInput, Unavailable.
        """
        try:
            certificate = parse_certificates(pem, source="the CA of another server")[0]
            key = serialization.load_pem_private_key(pem.encode(), password=None)
        except ValueError as error:
            raise InvalidInput("The CA of another server cannot be used", why=type(error).__name__) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise InvalidInput("The CA of another server cannot be used", why="its key is another one's")
        other = CertificateAuthority(certificate, key)
        own = self.known()
        if own is not None and _age(own) <= _age(other):
            return False
        private_directory(self.directory)
        remove_file(self.directory / SERVER_NAME)
        write_file(self.directory / AUTHORITY_NAME, pem.encode())
        write_file(self.directory / PUBLIC_NAME, other.pem.encode(), mode=0o644)
        self._authority = other
        return True

    def server_certificate(self, names: Collection[str], addresses: Collection[Address], now: datetime) -> Path:
        """This server's key and certificate for these names and addresses, made anew when it must be.

        Raises:
            PorticoError: the CA cannot be used, or the file not be written.
        """
        authority = self.ensure(now)
        path = self.directory / SERVER_NAME
        wanted: set[str] = {*names, *map(str, addresses)}
        try:
            certificate = parse_certificates(read_file(path), source=str(path))[0]
            if (
                authority.issued(certificate)
                and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW
                and _names(certificate) == wanted
            ):
                return path
        except PorticoError:
            pass  # it is made from the CA, so it is made again
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(names)]
        alternatives += [x509.IPAddress(address) for address in sorted(addresses, key=str)]
        made = end_entity(
            authority,
            key.public_key(),
            sorted(names)[0],
            days=SERVER_DAYS,
            now=now,
            purposes=[ExtendedKeyUsageOID.SERVER_AUTH],
            names=alternatives,
        )
        write_file(path, (private_pem(key) + to_pem(made) + authority.pem).encode())
        return path

    def administrator(self, name: str, request: str, days: int, now: datetime) -> tuple[str, str, datetime]:
        """A certificate for an administrator's signing request: (chain PEM, serial number, end).

        Raises:
            InvalidInput: code CLIENT_NAME_INVALID, REQUEST_INVALID, CA_EXPIRED.
        """
        authority = self.ensure(now)
        made = end_entity(
            authority,
            parse_request(request),
            client_name(name),
            days=days,
            now=now,
            purposes=[ExtendedKeyUsageOID.CLIENT_AUTH],
        )
        return to_pem(made) + authority.pem, serial_hex(made.serial_number), made.not_valid_after_utc

    def context(self, server: Path, key: Path | None = None) -> ssl.SSLContext:
        """Of the API's listener: a client certificate of another CA ends the handshake, none at all does not.

        Args:
            server: the listener's own certificate with its chain.
            key: its key; None: it is in the same file.

        Raises:
            PorticoError: a file cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_OPTIONAL
        context.options |= ssl.OP_NO_TICKET  # a resumed connection would skip the look at its certificate
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        try:
            known = self.known()
            context.load_verify_locations(cadata=known.pem if known is not None else "")
            context.load_cert_chain(server, key)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise PorticoError(
                f"The API's certificate {server} cannot be used",
                why=str(error),
                resolution=f"Look at it and its key: openssl x509 -in {server} -noout -dates -ext subjectAltName",
                code="MANAGEMENT_CERTIFICATE",
            ) from None
        return context

    def identify(self, der: bytes) -> tuple[str, str]:
        """(name, serial number) of an administrator's certificate. Raises ValueError for one that is none."""
        certificate = x509.load_der_x509_certificate(der)
        known = self.known()
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if known is None or not known.issued(certificate) or ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
            raise ValueError("it is no administrator's certificate")
        (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(name.value), serial_hex(certificate.serial_number)

    def forget(self) -> None:
        """Removes everything. Raises OSError."""
        for name in (AUTHORITY_NAME, PUBLIC_NAME, SERVER_NAME):
            remove_file(self.directory / name)
        self._authority = None


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


def _age(authority: CertificateAuthority) -> tuple[datetime, str]:
    return authority.certificate.not_valid_before_utc, pin(authority.pem)
