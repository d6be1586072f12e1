"""Proof of a user's certificate: what is signed, and whether a signature and a chain are good. Reads files only.

The computer's agent asks for a challenge over the connection that its own certificate authenticates; the user's key
signs it together with that computer's identity, so that the proof is of no use anywhere else. The key stays with the
user's session.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from portico.certificates.revocation import read_crl
from portico.certificates.trust import common_name, name_sha256, parse_certificates, serial_hex
from portico.errors import InvalidInput, NotPermitted
from portico.files import read_file
from portico.server.users.once import Once

SECONDS: Final = 120
"""A challenge is good for so long."""
MAXIMUM_CHAIN: Final = 8
MAXIMUM_NAME: Final = 200

_LABEL: Final = b"portico user login, version 1"
_UPN: Final = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
_RSA_BITS: Final = 2048


class Challenges:
    """Challenges that need no memory until they are used: time, chance, and a code over both and the computer.

    The keys are those of TLS tickets, which all servers have: whichever server is asked, another one recognises it.
    """

    def __init__(self) -> None:
        self._used = Once()

    def make(self, key: bytes, machine: str, now: float) -> str:
        """A challenge for a computer."""
        stamp = f"{int(now)}.{secrets.token_hex(16)}"
        return f"{stamp}.{_code(key, stamp, machine)}"

    def use(self, challenge: str, keys: Iterable[bytes], machine: str, now: float) -> None:
        """Takes a challenge, once. Raises NotPermitted (CHALLENGE_REFUSED)."""
        stamp, _, code = challenge.rpartition(".")
        made, _, _ = stamp.partition(".")
        good = any(hmac.compare_digest(_code(key, stamp, machine).encode(), code.encode()) for key in keys)
        fresh = good and -SECONDS <= now - int(made) <= SECONDS
        if not fresh or not self._used.take(challenge, int(made) + SECONDS, now):
            raise NotPermitted(
                "The login took too long",
                why="its challenge is not one of this cluster, is used, or is older than two minutes",
                resolution="Try again: portico client login",
                code="CHALLENGE_REFUSED",
            )


@dataclass(frozen=True)
class Trust:
    """What users' certificates are judged by.

    Attributes:
        machines: CAs of computers, which must not be those of users.
    """

    authorities: tuple[x509.Certificate, ...]
    crls: tuple[Path, ...]
    machines: tuple[x509.Certificate, ...]

    @classmethod
    def read(cls, authorities: Iterable[str], crls: Iterable[str], machines: str) -> Trust:
        """Reads the files. Raises PorticoError naming the file."""
        found = [c for name in authorities for c in parse_certificates(read_file(Path(name)), source=name)]
        known = parse_certificates(machines) if machines.strip() else []
        return cls(tuple(found), tuple(map(Path, crls)), tuple(known))


def signed_text(challenge: str, issuer_sha256: str, serial: str) -> bytes:
    """What a user's key signs: the challenge, and the certificate of the computer that he sits at."""
    return b"\n".join([_LABEL, challenge.encode(), issuer_sha256.encode(), serial.encode()])


def sign(key: PrivateKeyTypes, text: bytes) -> str:
    """The signature, base64. Raises InvalidInput for keys of other kinds than RSA, ECDSA and Ed25519."""
    if isinstance(key, rsa.RSAPrivateKey):
        made = key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        made = key.sign(text, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        made = key.sign(text)
    else:
        raise InvalidInput("The user's key cannot be used", why="it is neither RSA, ECDSA nor Ed25519")
    return base64.b64encode(made).decode()


def verify(chain_pem: str, signature: str, text: bytes, trust: Trust, now: datetime) -> str:
    """The user's name: the UPN or the mail address of the certificate, else its common name.

    Raises:
        NotPermitted: code USER_REFUSED. PorticoError: a list of revoked certificates cannot be read.
    """
    chain = parse_certificates(chain_pem, source="the user's certificate")[:MAXIMUM_CHAIN]
    leaf = chain[0]
    _check_signature(leaf, signature, text)
    ours = {_der(certificate) for certificate in trust.machines}
    if any(_der(authority) in ours for authority in trust.authorities):
        raise _refused("the CA of the users is one of the CAs of computers, whose certificates would pass for users'")
    verified = _verified(leaf, chain[1:], trust.authorities, now)
    for path in trust.crls:
        _, entries = read_crl(path, trust.authorities)
        gone = {(entry.issuer_sha256, entry.serial) for entry in entries}
        if any((name_sha256(c.issuer), serial_hex(c.serial_number)) in gone for c in verified):
            raise _refused("the certificate is revoked")
    name = user_name(leaf)
    if not name:
        raise _refused("the certificate names nobody")
    return name


def user_name(certificate: x509.Certificate) -> str:
    """UPN, mail address or common name; empty without any that can be shown."""
    names: list[str] = []
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        for other in san.get_values_for_type(x509.OtherName):
            if other.type_id == _UPN and len(other.value) > 2 and other.value[1] < 0x80:  # a short DER UTF8String
                names.append(other.value[2 : 2 + other.value[1]].decode("utf-8", "replace"))
        names += san.get_values_for_type(x509.RFC822Name)
    names.append(common_name(certificate.subject) or "")
    return next((name for name in names if name and name.isprintable() and len(name) <= MAXIMUM_NAME), "")


def _verified(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
) -> list[x509.Certificate]:
    if not roots:
        raise _refused("access.user_ca names no CA")
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        raise _refused("the certificate is not for client authentication") from None
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise _refused("the certificate is not for client authentication")
    builder = PolicyBuilder().store(Store(list(roots))).time(now.replace(tzinfo=None))
    # Users have no DNS names: nothing is asked of the leaf's extensions but what is checked here.
    builder = builder.extension_policies(
        ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all()
    )
    try:
        return list(builder.build_client_verifier().verify(leaf, list(others)).chain)
    except (VerificationError, ValueError) as error:
        raise _refused(f"its certificate is not good: {str(error)[:200]}") from None


def _check_signature(leaf: x509.Certificate, signature: str, text: bytes) -> None:
    key = leaf.public_key()
    try:
        data = base64.b64decode(signature, validate=True)
        if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS:
            key.verify(data, text, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(data, text, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(data, text)
        else:
            raise _refused("its key is too short or of an unknown kind")
    except (InvalidSignature, UnsupportedAlgorithm, binascii.Error, ValueError):
        raise _refused("the proof is not signed with the certificate's key") from None


def _code(key: bytes, stamp: str, machine: str) -> str:
    derived = hmac.digest(key, b"portico user challenge", hashlib.sha256)
    return hmac.digest(derived, f"{stamp}\n{machine}".encode(), hashlib.sha256).hex()


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())


def _refused(why: str) -> NotPermitted:
    return NotPermitted(
        "The user is not authenticated",
        why=why,
        resolution="Use a certificate of the CA that access.user_ca names, or ask an administrator",
        code="USER_REFUSED",
    )
