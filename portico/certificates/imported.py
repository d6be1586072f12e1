"""Imported certificates, keys, CAs and revocation lists: looked at for the rules, loaded for the gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from portico.certificates.revocation import read_crl
from portico.certificates.trust import common_name, merge, name_text, parse_certificates, private_pem, to_pem
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import read_file, write_file
from portico.settings.facts import CertificateFile, FileTrouble
from portico.settings.model import Certificates

KEPT_NAME = "imported.json"

_TROUBLES: dict[str, FileTrouble] = {
    "FILE_MISSING": "missing",
    "FILE_EMPTY": "empty",
    "PEM_TRUNCATED": "truncated",
    "PEM_DAMAGED": "truncated",
    "PEM_NO_CERTIFICATE": "not_pem",
    "PEM_TOO_MANY": "not_pem",
    "CRL_DAMAGED": "not_pem",
    "CRL_FOREIGN": "foreign",
    "KEY_DAMAGED": "truncated",
    "KEY_MISSING": "not_pem",
    "KEY_ENCRYPTED": "encrypted",
}


@dataclass(frozen=True)
class ImportedMaterial:
    """What the gateway needs, as PEM; the key stays out of representations."""

    certificate_chain: str
    private_key: str = field(repr=False)
    client_ca: str


def load_key(path: Path) -> PrivateKeyTypes:
    """A private key from a PEM file without passphrase.

    Raises:
        PorticoError: of `read_file`; InvalidInput with codes KEY_MISSING, KEY_ENCRYPTED, KEY_DAMAGED.
    """
    data = read_file(path)
    what = f"the private key {path} cannot be used"
    if b"PRIVATE KEY-----" not in data:
        raise InvalidInput(
            what, why="it holds no PEM private key", resolution="Name the file of the key", code="KEY_MISSING"
        )
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise InvalidInput(
            what,
            why="it is protected by a passphrase",
            resolution=f"Store it without one: openssl pkey -in {path} -out NEW",
            code="KEY_ENCRYPTED",
        ) from None
    except Exception as error:
        raise InvalidInput(
            what,
            why=f"it cannot be decoded ({type(error).__name__}); the file may be truncated",
            resolution="Copy it again from where it was made",
            code="KEY_DAMAGED",
        ) from None


def inspect(certificates: Certificates) -> tuple[CertificateFile, ...]:
    """Looks at every file the settings name, for `verify`; never raises for what a file holds."""
    found: list[CertificateFile] = []
    key: PrivateKeyTypes | None = None
    if certificates.server_key:
        try:
            key = load_key(Path(certificates.server_key))
        except PorticoError as error:
            found.append(_trouble("certificates.server_key", certificates.server_key, error))
    if certificates.server_certificate:
        found.append(_server(certificates.server_certificate, key))
    issuers: list[x509.Certificate] = []
    for index, name in enumerate(certificates.client_ca):
        facts, usable = _authority(f"certificates.client_ca[{index}]", name)
        found.append(facts)
        issuers += usable
    for index, name in enumerate(certificates.crl):
        found.append(_list(f"certificates.crl[{index}]", name, issuers))
    return tuple(found)


def load_imported(certificates: Certificates) -> ImportedMaterial:
    """Reads the files for the gateway.

    Raises:
        PorticoError: a file is missing, unreadable, damaged, or key and certificate do not match; names the file.
    """
    chain, key = load_server(certificates)
    authorities = [to_pem(*parse_certificates(read_file(Path(name)), source=name)) for name in certificates.client_ca]
    return ImportedMaterial(chain, key, merge(authorities))


def load_server(certificates: Certificates) -> tuple[str, str]:
    """The server's certificate chain and private key as PEM.

    Raises:
        PorticoError: as `load_imported`.
    """
    if not certificates.server_certificate or not certificates.server_key:
        raise NotFound(
            "imported certificates cannot be loaded",
            why="certificates.server_certificate or certificates.server_key is not set",
            resolution="Name both files, or set certificates.mode to built-in",
            code="CERTIFICATE_NOT_NAMED",
        )
    path, key_path = Path(certificates.server_certificate), Path(certificates.server_key)
    chain = parse_certificates(read_file(path), source=str(path))
    key = load_key(key_path)
    if not _same_key(key, chain[0]):
        raise InvalidInput(
            f"the private key {key_path} cannot be used",
            why=f"it is not the key of the certificate in {path}",
            resolution="Name the key that the certificate was requested with",
            code="CERTIFICATE_KEY_MISMATCH",
        )
    return to_pem(*chain), private_pem(key)


def load_kept(directory: Path) -> dict[str, str]:
    """What imported files held when they could last be read, PEM by their path; empty when nothing was kept.

    Raises:
        PorticoError: of `read_file`; InvalidInput with code KEPT_DAMAGED. Each names the file.
    """
    path = directory / KEPT_NAME
    try:
        data = read_file(path, limit=8 << 20)
    except NotFound:
        return {}
    try:
        texts = json.loads(data)
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("it is not what Portico writes")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"the copies of imported certificates {path} cannot be used",
            why=f"the file is damaged ({type(error).__name__})",
            resolution="It is written again as soon as the imported files can be read",
            code="KEPT_DAMAGED",
        ) from None
    return texts


def save_kept(directory: Path, texts: Mapping[str, str]) -> None:
    """Keeps them, mode 0600: there is a private key among them. Raises Unavailable (FILE_NOT_WRITTEN)."""
    write_file(directory / KEPT_NAME, json.dumps(dict(texts)).encode())


def authorities(certificates: Certificates) -> list[x509.Certificate]:
    """The certificates of all client CAs, for `read_crl`. Raises PorticoError naming the file."""
    return [
        certificate
        for name in certificates.client_ca
        for certificate in parse_certificates(read_file(Path(name)), source=name)
    ]


def describe(
    setting: str, file: str, certificate: x509.Certificate, key_matches: bool | None = None
) -> CertificateFile:
    """The facts of one certificate."""
    names: tuple[str, ...] = ()
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = (str(address) for address in san.get_values_for_type(x509.IPAddress))
        names = (*san.get_values_for_type(x509.DNSName), *addresses)
    except x509.ExtensionNotFound:
        pass
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        server_auth = ExtendedKeyUsageOID.SERVER_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage
    except x509.ExtensionNotFound:
        server_auth = True
    return CertificateFile(
        setting=setting,
        file=file,
        names=names,
        common_name=common_name(certificate.subject),
        has_subject=len(list(certificate.subject)) > 0,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key_matches=key_matches,
        server_auth=server_auth,
    )


def _server(name: str, key: PrivateKeyTypes | None) -> CertificateFile:
    setting = "certificates.server_certificate"
    try:
        certificate = parse_certificates(read_file(Path(name)), source=name)[0]
    except PorticoError as error:
        return _trouble(setting, name, error)
    return describe(setting, name, certificate, None if key is None else _same_key(key, certificate))


def _authority(setting: str, name: str) -> tuple[CertificateFile, list[x509.Certificate]]:
    try:
        certificates = parse_certificates(read_file(Path(name)), source=name)
    except PorticoError as error:
        return _trouble(setting, name, error), []
    for certificate in certificates:
        if not _is_ca(certificate):
            subject = name_text(certificate.subject) or "no subject"
            return CertificateFile(setting, name, trouble="not_ca", detail=subject), []
    # Of several, the one that ends first is what the administrator must know about.
    first = min(certificates, key=lambda certificate: certificate.not_valid_after_utc)
    return describe(setting, name, first), certificates


def _list(setting: str, name: str, issuers: list[x509.Certificate]) -> CertificateFile:
    try:
        crl, _ = read_crl(Path(name), issuers)
    except PorticoError as error:
        return _trouble(setting, name, error)
    return CertificateFile(setting, name, next_update=crl.next_update_utc)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _same_key(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    der, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(der, form) == certificate.public_key().public_bytes(der, form)


def _trouble(setting: str, file: str, error: PorticoError) -> CertificateFile:
    return CertificateFile(setting, file, trouble=_TROUBLES.get(error.code, "not_readable"), detail=error.why)
