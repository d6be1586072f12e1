"""How a server shows itself to etcd, and how the others know which revisions are its own.

Connections: TLS with a certificate of the cluster's CA, for both directions and with this server's addresses in it.
Revisions: a seal, made with the key of the certificate that is this server on the peers' channel. A certificate of the
CA alone lets nobody change settings: a server that was taken out has one, and its seals count for nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ssl
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from portico.certificates.ca import CertificateAuthority
from portico.certificates.end_entity import end_entity
from portico.certificates.trust import parse_certificates, private_pem, to_pem
from portico.errors import InvalidInput, PorticoError
from portico.files import private_directory, read_file, write_file
from portico.server.cluster_secrets import ClusterFiles, ClusterState

Address = IPv4Address | IPv6Address

CERTIFICATE_NAME = "store.pem"
LIFETIME_DAYS = 3650

_CONTEXT = b"portico settings revision\0"


def store_certificate(authority: CertificateAuthority, name: str, addresses: Iterable[Address], now: datetime) -> str:
    """A new key and certificate (PEM, in this order) for both ends of etcd's connections."""
    key = ec.generate_private_key(ec.SECP256R1())
    return private_pem(key) + to_pem(sign_store(authority, key.public_key(), name, addresses, now))


def sign_store(
    authority: CertificateAuthority,
    key: CertificatePublicKeyTypes,
    name: str,
    addresses: Iterable[Address],
    now: datetime,
) -> x509.Certificate:
    """The certificate of a machine in etcd, for a key that it made itself."""
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.DNSName(name), *(x509.IPAddress(address) for address in addresses)]
    return end_entity(authority, key, name, days=LIFETIME_DAYS, now=now, purposes=both, names=names)


def own_certificate(files: ClusterFiles, name: str, addresses: Iterable[Address], now: datetime) -> Path:
    """This server's certificate for etcd; made when it is missing or has other addresses.

    Raises:
        PorticoError: the cluster's CA cannot be used, or nothing can be written.
    """
    path = files.directory / CERTIFICATE_NAME
    wanted = set(addresses)
    try:
        pem = read_file(path).decode()
        found = parse_certificates(pem)[0]
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        right = set(names.get_values_for_type(x509.IPAddress)) == wanted
        if right and names.get_values_for_type(x509.DNSName) == [name]:
            return path
    except (PorticoError, ValueError, IndexError, x509.ExtensionNotFound):
        pass  # missing or damaged: there is nothing in it that cannot be made anew
    private_directory(files.directory)
    write_file(path, store_certificate(files.authority(), name, sorted(wanted, key=str), now).encode())
    return path


def refused_certificates(authority: CertificateAuthority, serials: Iterable[str]) -> str:
    """The revocation list (PEM, RFC 5280 section 5) that etcd reads at each handshake. Pure: every server makes the
    same one, byte by byte, so that its members run on while nobody else is refused.

    Args:
        serials: of certificates of this CA, in hex.
    """
    certificate = authority.certificate
    begin, numbers = certificate.not_valid_before_utc, sorted({int(serial, 16) for serial in serials})
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(begin)  # when does not matter: what the document says now is what counts
        .next_update(certificate.not_valid_after_utc)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .add_extension(x509.CRLNumber(len(numbers)), critical=False)
    )
    for number in numbers:
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(begin).build()
        builder = builder.add_revoked_certificate(entry)
    crl = builder.sign(authority.key, hashes.SHA256(), ecdsa_deterministic=True)
    return crl.public_bytes(serialization.Encoding.PEM).decode()


def client_context(trust: str, certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """For asking etcd. Raises InvalidInput when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=trust)
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            "etcd cannot be asked",
            why=f"the CA, or the certificate and key in {certificate}, cannot be used: {error}",
            resolution="Check store.ca, store.certificate and store.key: openssl x509 -noout -subject -in FILE",
            code="STORE_CERTIFICATE",
        ) from None
    return context


def make_seal(name: str, member: Path) -> Callable[[bytes], Mapping[str, str]]:
    """What this server seals its revisions with. Raises InvalidInput when its identity cannot be used."""
    pem = read_file(member)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
        certificate = parse_certificates(pem.decode())[0]
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("its key is of a wrong kind")
    except (ValueError, TypeError, IndexError) as error:
        raise InvalidInput(
            f"This server's identity {member} cannot be used", why=str(error), code="MEMBER_DAMAGED"
        ) from None
    shown = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()

    def seal(content: bytes) -> Mapping[str, str]:
        signature = key.sign(_CONTEXT + content, ec.ECDSA(hashes.SHA256()))
        return {"server": name, "certificate": shown, "signature": base64.b64encode(signature).decode()}

    return seal


def make_check(state: Callable[[], ClusterState | None]) -> Callable[[bytes, Mapping[str, str]], bool]:
    """Whether a seal is that of a server of the cluster as it is now."""

    def check(content: bytes, seal: Mapping[str, str]) -> bool:
        members = state()
        try:
            der = base64.b64decode(seal["certificate"], validate=True)
            signature = base64.b64decode(seal["signature"], validate=True)
            if members is None or members.members.get(seal["server"]) != hashlib.sha256(der).hexdigest():
                return False
            key = x509.load_der_x509_certificate(der).public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                return False
            key.verify(signature, _CONTEXT + content, ec.ECDSA(hashes.SHA256()))
        except (KeyError, ValueError, binascii.Error, InvalidSignature):
            return False
        return True

    return check
