"""Enrolment by hand, as the protocol describes it: fetch the trust, compare it with the token's pin, send a CSR."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portico.certificates.ca import CertificateAuthority
from tests.peers.iphttps_peer import tls


@dataclass(frozen=True)
class Identity:
    """PEM files of a client."""

    trust: str
    certificate: str
    key: str
    settings: Any = None


def read_token(token: str) -> dict[str, Any]:
    """What a token says."""
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return decoded


def enrol(address: str, token: str, into: Path) -> Identity:
    """Enrols over sockets of the calling thread's network and writes the files into a directory.

    Raises:
        PermissionError: the server did not take the token.
    """
    said = read_token(token)
    name = said["url"].removeprefix("https://").partition(":")[0]
    into.mkdir(parents=True, exist_ok=True)
    trust = into / "trust.pem"
    trust.write_text(_trust_text(_request(address, name, None, "GET", "/portico/v1/trust")))
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, said["name"])]))
        .sign(key, hashes.SHA256())
    )
    body = {
        "id": said["id"],
        "secret": said["secret"],
        "csr": csr.public_bytes(serialization.Encoding.PEM).decode(),
    }
    answer = json.loads(_request(address, name, str(trust), "POST", "/portico/v1/enrol", json.dumps(body)))
    return _write(into, trust, answer["certificate_chain"], key, answer.get("settings"))


def foreign_identity(trust: str, into: Path, *, name: str = "client1") -> Identity:
    """An identity of an authority nobody trusts, with a plausible name."""
    into.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Some other authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return _write(into, Path(trust), certificate.public_bytes(serialization.Encoding.PEM).decode(), key, None)


def identity_signed_by(
    authority: CertificateAuthority,
    like: x509.Certificate,
    trust: str,
    into: Path,
    not_before: datetime,
    not_after: datetime,
) -> Identity:
    """An identity as the server issues it (the extensions of `like`), for any time."""
    into.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for extension in like.extensions:
        if not isinstance(extension.value, x509.SubjectKeyIdentifier | x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    chain = authority.sign(builder).public_bytes(serialization.Encoding.PEM).decode()
    return _write(into, Path(trust), chain, key, None)


def _write(into: Path, trust: Path, chain: str, key: ec.EllipticCurvePrivateKey, settings: Any) -> Identity:
    (into / "certificate.pem").write_text(chain)
    (into / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Identity(str(trust), str(into / "certificate.pem"), str(into / "key.pem"), settings)


def _trust_text(body: bytes) -> str:
    text = body.decode()
    if text.lstrip().startswith("{"):
        return str(json.loads(text)["trust"])
    return text


def _request(address: str, name: str, trust: str | None, method: str, path: str, body: str | None = None) -> bytes:
    context = tls(trust)
    with socket.create_connection((address, 443), timeout=10.0) as plain:
        connection = http.client.HTTPConnection(name, 443, timeout=10.0)
        connection.sock = context.wrap_socket(plain, server_hostname=name)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
    if response.status != 200:
        raise PermissionError(f"{method} {path}: {response.status} {data[:300]!r}")
    return data
