"""Issuing: server certificates for the ConnectTo address, client certificates from signing requests."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from portico.certificates.ca import CertificateAuthority
from portico.certificates.end_entity import end_entity
from portico.certificates.store import CertificateStore, IssuedRecord, Kind
from portico.certificates.tokens import TokenRefused, redeem
from portico.certificates.trust import common_name, name_sha256, parse_certificates, private_pem, serial_hex, to_pem
from portico.errors import InvalidInput, NotPermitted

MAXIMUM_REQUEST = 16 * 1024
MINIMUM_RSA_BITS = 2048
MAXIMUM_RSA_BITS = 8192

_CLIENT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", flags=re.ASCII)


@dataclass(frozen=True)
class Identity:
    """A certificate with its chain and private key, all PEM. The key stays out of its representation."""

    certificate: x509.Certificate
    chain_pem: str
    key_pem: str = field(repr=False)


def client_name(text: str) -> str:
    """A client's name as it goes into a certificate: 1 to 64 letters, digits, '.', '_' and '-'.

    Raises:
        InvalidInput: code CLIENT_NAME_INVALID.
    """
    if not _CLIENT_NAME.fullmatch(text):
        raise InvalidInput(
            f"'{text[:80]}' cannot be a client's name",
            why="a name has 1 to 64 letters, digits, '.', '_' and '-' and begins and ends with a letter or digit",
            resolution="Use the computer's host name",
            code="CLIENT_NAME_INVALID",
        )
    return text


def make_request(name: str) -> tuple[str, str]:
    """A new P-256 key and a signing request for it: (key PEM, request PEM). For the client."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, client_name(name))])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return private_pem(key), request.public_bytes(serialization.Encoding.PEM).decode()


def parse_request(pem: bytes | str) -> CertificatePublicKeyTypes:
    """The public key of a signing request. Everything else a request may ask for is ignored.

    Raises:
        InvalidInput: code REQUEST_INVALID (too large, malformed, signature wrong, weak key).
    """
    try:
        data = pem.encode() if isinstance(pem, str) else pem
    except UnicodeEncodeError:
        raise _bad_request("it holds characters that no text has") from None
    if len(data) > MAXIMUM_REQUEST:
        raise _bad_request(f"it is larger than {MAXIMUM_REQUEST} bytes")
    try:
        request = x509.load_pem_x509_csr(data)
        key = request.public_key()
        # Checking a signature by a giant key keeps a processor busy for seconds: its size is looked at first.
        giant = isinstance(key, rsa.RSAPublicKey) and key.key_size > MAXIMUM_RSA_BITS
        valid = not giant and request.is_signature_valid
    except Exception as error:
        raise _bad_request(f"it cannot be decoded ({type(error).__name__})") from None
    if giant:
        raise _bad_request(f"an RSA key of more than {MAXIMUM_RSA_BITS} bits is not accepted")
    if not valid:
        raise _bad_request("its signature is wrong: whoever made it does not hold the key")
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            raise _bad_request(f"the curve {key.curve.name} is not accepted; use P-256, P-384 or P-521")
    elif isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MINIMUM_RSA_BITS:
            raise _bad_request(f"an RSA key of {key.key_size} bits is too short; {MINIMUM_RSA_BITS} at least")
    elif not isinstance(key, ed25519.Ed25519PublicKey):
        raise _bad_request("the type of its key is not accepted; use ECDSA, RSA or Ed25519")
    return key


class Issuer:
    """Signs with the built-in CA and records what it signed."""

    def __init__(self, authority: CertificateAuthority, store: CertificateStore) -> None:
        self.authority = authority
        self.store = store

    @property
    def trust(self) -> str:
        """PEM that clients trust the server by and the server its clients."""
        return self.authority.pem

    def server(self, connect_to: str, *, days: int, now: datetime, addresses: Iterable[str] = ()) -> Identity:
        """A new key and a certificate for the ConnectTo name or address (and further addresses).

        Raises:
            InvalidInput: code CA_EXPIRED; PorticoError of the store.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = end_entity(
            self.authority,
            key.public_key(),
            connect_to,
            days=days,
            now=now,
            purposes=[ExtendedKeyUsageOID.SERVER_AUTH],
            names=_general_names(connect_to, addresses),
        )
        with self.store.transaction() as connection:
            self.store.add_issued(connection, self._record(certificate, "server", connect_to, now, None))
        return Identity(certificate, to_pem(certificate), private_pem(key))

    def enrol(self, *, token: str, secret: str, request: bytes | str, days: int, now: datetime) -> tuple[str, str]:
        """Redeems a token and issues the client's certificate, both or neither.

        Args:
            token: the token's id, `secret` its secret, `request` the signing request.

        Returns:
            The client's name and its certificate chain as PEM.

        Raises:
            NotPermitted: `TokenRefused`.
            InvalidInput: code REQUEST_INVALID (the token stays open), CA_EXPIRED.
        """
        key = parse_request(request)
        self.authority.window(now, days)
        chain = ""
        with self.store.transaction() as connection:
            outcome = redeem(connection, token, secret, now)
            if outcome.name is not None:
                chain = self._client(connection, key, outcome.name, days=days, now=now, token=token)
        if outcome.name is None:
            raise TokenRefused(outcome.refusal)
        return outcome.name, chain

    def client(self, name: str, request: bytes | str, *, days: int, now: datetime) -> str:
        """A client certificate without a token, for the administrator. Raises InvalidInput."""
        key = parse_request(request)
        with self.store.transaction() as connection:
            return self._client(connection, key, client_name(name), days=days, now=now, token=None)

    def renew(
        self, *, issuer_sha256: str, serial: str, request: bytes | str, days: int, now: datetime
    ) -> tuple[str, str]:
        """A new certificate for a client that showed a good one (the gateway's `identity`).

        Returns:
            The client's name and its new chain as PEM. The old certificate stays good until it expires.

        Raises:
            NotPermitted: code RENEWAL_REFUSED (not ours, revoked, expired).
            InvalidInput: code REQUEST_INVALID, CA_EXPIRED.
        """
        key = parse_request(request)
        records = self.store.issued(kind="client", serial=serial, issuer_sha256=issuer_sha256)
        record = records[0] if records else None
        if record is None or issuer_sha256 != self.authority.issuer_sha256:
            raise _no_renewal("this server's CA did not issue it")
        if record.revoked is not None:
            raise _no_renewal(f"it was revoked on {record.revoked:%Y-%m-%d %H:%M} UTC")
        if now >= record.not_after:
            raise _no_renewal(f"it expired on {record.not_after:%Y-%m-%d %H:%M} UTC")
        with self.store.transaction() as connection:
            chain = self._client(connection, key, record.name, days=days, now=now, token=record.token)
        return record.name, chain

    def _client(
        self,
        connection: sqlite3.Connection,
        key: CertificatePublicKeyTypes,
        name: str,
        *,
        days: int,
        now: datetime,
        token: str | None,
    ) -> str:
        certificate = end_entity(
            self.authority, key, name, days=days, now=now, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]
        )
        self.store.add_issued(connection, self._record(certificate, "client", name, now, token))
        return to_pem(certificate)

    def _record(
        self, certificate: x509.Certificate, kind: Kind, name: str, now: datetime, token: str | None
    ) -> IssuedRecord:
        return IssuedRecord(
            issuer_sha256=name_sha256(certificate.issuer),
            serial=serial_hex(certificate.serial_number),
            kind=kind,
            name=name,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            issued=now,
            token=token,
            certificate=to_pem(certificate),
            revoked=None,
            reason=None,
        )


def certificate_name(pem: str) -> str:
    """The common name of the first certificate of a PEM text. Raises InvalidInput."""
    return common_name(parse_certificates(pem)[0].subject) or ""


def _general_names(connect_to: str, addresses: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for text in (connect_to, *addresses):
        address = _address(text)
        name: x509.GeneralName = x509.DNSName(text) if address is None else x509.IPAddress(address)
        if name not in names:
            names.append(name)
    return names


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _bad_request(why: str) -> InvalidInput:
    return InvalidInput(
        "the certificate signing request cannot be used",
        why=why,
        resolution="Make a new one; 'portico client enrol' does it by itself",
        code="REQUEST_INVALID",
    )


def _no_renewal(why: str) -> NotPermitted:
    return NotPermitted(
        "the certificate cannot be renewed",
        why=why,
        resolution="Enrol the computer again with a new token: portico ca token create --name NAME",
        code="RENEWAL_REFUSED",
    )
