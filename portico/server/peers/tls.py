"""Members' certificates and the TLS contexts of the peers' channel: TLS 1.3, the cluster's own CA, nothing else."""

from __future__ import annotations

import hashlib
import ssl
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from portico.certificates.ca import CertificateAuthority
from portico.certificates.end_entity import end_entity
from portico.certificates.issue import parse_request
from portico.certificates.trust import parse_certificates, private_pem, to_pem
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import private_directory, read_file, remove_file, write_file
from portico.server.cluster_secrets import MEMBER_NAME

LIFETIME_DAYS = 3650
"""What ends a membership is its entry in the shared state, not a date: a cluster must not stop on one."""

PENDING_NAME = "member.key"


def make_member_request(directory: Path, name: str) -> str:
    """A signing request for this machine's own key, which is made once and kept (0600) for a repeated attempt.

    Raises:
        PorticoError: the key cannot be read or written.
    """
    key = _own_key(private_directory(directory))
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_file(directory / PENDING_NAME, private_pem(key).encode())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def keep_member(directory: Path, certificate_pem: str) -> None:
    """Puts the certificate beside its key as this server's identity. Raises PorticoError."""
    key = _own_key(directory)
    certificate = parse_certificates(certificate_pem)[0]
    if key is None or key.public_key() != certificate.public_key():
        raise InvalidInput("The member's certificate cannot be used", why="it is not for this machine's key")
    write_file(directory / MEMBER_NAME, (private_pem(key) + certificate_pem).encode())
    remove_file(directory / PENDING_NAME)


def _own_key(directory: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key of an attempt that is not finished, or of the identity there is; None without a usable one."""
    for name in (PENDING_NAME, MEMBER_NAME):
        try:
            key = serialization.load_pem_private_key(read_file(directory / name), password=None)
        except NotFound:
            continue
        except ValueError:
            continue  # half a key is of an attempt that nobody answered
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    return None


def sign_member(authority: CertificateAuthority, name: str, request: str, now: datetime) -> x509.Certificate:
    """A member's certificate for a signing request; only the request's key is taken.

    Raises:
        InvalidInput: code REQUEST_INVALID, CA_EXPIRED.
    """
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.DNSName(name)]
    return end_entity(authority, parse_request(request), name, days=LIFETIME_DAYS, now=now, purposes=both, names=names)


def own_member(authority: CertificateAuthority, directory: Path, name: str, now: datetime) -> str:
    """Makes this server's own identity (the first one of a cluster) and returns its fingerprint."""
    request = make_member_request(directory, name)
    certificate = sign_member(authority, name, request, now)
    keep_member(directory, to_pem(certificate))
    return fingerprint(certificate.public_bytes(serialization.Encoding.DER))


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate as lower-case hex."""
    return hashlib.sha256(der).hexdigest()


def listener_context(member: Path, trust: str) -> ssl.SSLContext:
    """Of the listener. A certificate of another CA ends the handshake; none at all gets as far as joining.

    Raises:
        PorticoError: the files cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, trust)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.options |= ssl.OP_NO_TICKET  # a resumed connection would skip the look at its certificate
    context.num_tickets = 0
    _load(context, member)
    return context


def caller_context(trust: str, member: Path | None) -> ssl.SSLContext:
    """Of a caller; `member` is None for a machine that is about to join. Raises PorticoError."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, trust)
    if member is not None:
        _load(context, member)
    return context


def blind_context() -> ssl.SSLContext:
    """For the one question whose answer is checked against a pin: who the cluster's CA is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int, trust: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=trust)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput("The certificate of the cluster's CA cannot be used", why=str(error)) from None
    return context


def _load(context: ssl.SSLContext, member: Path) -> None:
    try:
        context.load_cert_chain(member)
    except (OSError, ssl.SSLError) as error:
        raise PorticoError(
            f"This server's identity {member} cannot be used",
            why=str(error),
            resolution="Restore it from a backup, or take this server out and let it join again",
            code="MEMBER_DAMAGED",
        ) from None
