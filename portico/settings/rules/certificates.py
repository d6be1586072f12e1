"""Certificates: what the settings ask for and what the imported files hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address

from portico.settings.facts import CertificateFile, Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

NEEDS_FILE = CATALOGUE.add(
    "CERTIFICATE_NOT_NAMED",
    what="Imported certificates are to be used, but a file is not named",
    why="certificates.mode is imported and {setting} is empty",
    resolution="Name the PEM file in {setting}, or set certificates.mode to built-in",
    example="certificates: {mode: imported}",
)
IGNORED_FILE = CATALOGUE.add(
    "CERTIFICATE_IGNORED",
    severity="warning",
    what="A certificate file is named but not used",
    why="certificates.mode is built-in, so {setting} has no effect",
    resolution="Set certificates.mode to imported, or remove {setting}",
    example="certificates: {mode: built-in, server_certificate: /etc/ssl/da.pem}",
)
RENEW_EARLY = CATALOGUE.add(
    "CERTIFICATE_RENEW_WINDOW",
    what="Certificates would be due for renewal when they are issued",
    why="{setting} is {days} days and certificates.renew_before_days is {before}",
    resolution="Make renew_before_days smaller than both lifetimes",
    example="certificates: {client_lifetime_days: 20, renew_before_days: 30}",
)
NO_AUTHENTICATION = CATALOGUE.add(
    "AUTHENTICATION_NONE",
    severity="warning",
    what="Anybody can open a tunnel",
    why="ip_https.authentication is none, so no client certificate is asked for",
    resolution="Set it to certificates, unless something else protects the intranet",
    example="ip_https: {authentication: none}",
)

FILE_MISSING = CATALOGUE.add(
    "CERTIFICATE_FILE_MISSING",
    what="A certificate file does not exist",
    why="there is no file {file}",
    resolution="Put it there, or correct {setting}",
    example="certificates: {mode: imported, server_certificate: /etc/ssl/gone.pem, ...}",
)
FILE_EMPTY = CATALOGUE.add(
    "CERTIFICATE_FILE_EMPTY",
    what="A certificate file is empty",
    why="{file} has no content",
    resolution="Copy it again from where it was issued",
    example="certificates: {mode: imported, server_certificate: /etc/ssl/empty.pem, ...}",
)
FILE_NOT_READABLE = CATALOGUE.add(
    "CERTIFICATE_FILE_NOT_READABLE",
    what="A certificate file cannot be read",
    why="{file}: {detail}",
    resolution="Check its owner and mode: ls -l {file}",
    example="certificates: {mode: imported, server_key: /etc/ssl/private, ...}   # a directory",
)
FILE_TRUNCATED = CATALOGUE.add(
    "CERTIFICATE_FILE_TRUNCATED",
    what="A certificate file is incomplete",
    why="{file}: {detail}",
    resolution="Copy it again from where it was issued",
    example="certificates: {mode: imported, client_ca: [/etc/ssl/half.pem], ...}",
)
FILE_NOT_PEM = CATALOGUE.add(
    "CERTIFICATE_FILE_WRONG_KIND",
    what="A file is not what the setting needs",
    why="{file}: {detail}",
    resolution="Name the right file in {setting}",
    example="certificates: {mode: imported, server_certificate: /etc/ssl/da.key, ...}",
)
FILE_ENCRYPTED = CATALOGUE.add(
    "CERTIFICATE_KEY_ENCRYPTED",
    what="The private key is protected by a passphrase",
    why="{file} is encrypted, and nobody is there to type the passphrase when the server starts",
    resolution="Store it without one, readable by root only: openssl pkey -in {file} -out NEW",
    example="certificates: {mode: imported, server_key: /etc/ssl/encrypted.key, ...}",
)
FILE_NOT_CA = CATALOGUE.add(
    "CERTIFICATE_NOT_CA",
    what="A certificate is not that of a CA",
    why="{file} holds a certificate that may not sign others ({detail})",
    resolution="Name the issuing CA's certificate in {setting}",
    example="certificates: {mode: imported, client_ca: [/etc/ssl/client1.pem], ...}",
)
CRL_FOREIGN = CATALOGUE.add(
    "CRL_NOT_OURS",
    what="A revocation list is of another CA",
    why="{file}: {detail}",
    resolution="Add its CA to certificates.client_ca, or remove the list",
    example="certificates: {mode: imported, crl: [/etc/ssl/other.crl], ...}",
)
KEY_MISMATCH = CATALOGUE.add(
    "CERTIFICATE_KEY_MISMATCH",
    what="The private key is not that of the server's certificate",
    why="{key} does not hold the key of {file}",
    resolution="Name the key that the certificate was requested with in certificates.server_key",
    example="certificates: {mode: imported, server_key: /etc/ssl/other.key, ...}",
)
NAME_MISMATCH = CATALOGUE.add(
    "CERTIFICATE_NAME_MISMATCH",
    what="The server's certificate is not for the ConnectTo address",
    why="{file} is for {names}, and clients dial {connect_to}",
    resolution="Get a certificate with {connect_to} as a subject alternative name, or correct deployment.connect_to",
    example="certificates: {mode: imported, ...}   # for www.example.net, connect_to: da.example.net",
)
NO_SAN = CATALOGUE.add(
    "CERTIFICATE_NO_SAN",
    what="The server's certificate has no subject alternative name",
    why="{file} names the server in its subject only, which TLS clients no longer look at",
    resolution="Get a certificate with {connect_to} as a subject alternative name",
    example="certificates: {mode: imported, ...}   # CN=da.example.net and no SAN",
)
NO_SUBJECT = CATALOGUE.add(
    "CERTIFICATE_NO_SUBJECT",
    what="The server's certificate has no subject",
    why="{file} has subject alternative names only; Windows refuses such a certificate",
    resolution="Get a certificate with a subject, for example CN={connect_to}",
    example="certificates: {mode: imported, ...}   # SAN only",
)
WRONG_USAGE = CATALOGUE.add(
    "CERTIFICATE_USAGE",
    what="The certificate is not for a server",
    why="the extended key usage of {file} lacks server authentication",
    resolution="Get a certificate with the usage serverAuth",
    example="certificates: {mode: imported, ...}   # a client certificate",
)
EXPIRED = CATALOGUE.add(
    "CERTIFICATE_EXPIRED",
    what="A certificate has expired",
    why="{file} was valid until {end:%Y-%m-%d %H:%M} UTC",
    resolution="Renew it and replace the file",
    example="certificates: {mode: imported, ...}   # valid until yesterday",
)
EXPIRES_SOON = CATALOGUE.add(
    "CERTIFICATE_EXPIRES_SOON",
    severity="warning",
    what="A certificate expires soon",
    why="{file} is valid until {end:%Y-%m-%d %H:%M} UTC, in {days} days",
    resolution="Renew it and replace the file",
    example="certificates: {mode: imported, ...}   # valid for another week",
)
NOT_YET = CATALOGUE.add(
    "CERTIFICATE_NOT_YET_VALID",
    what="A certificate is not valid yet",
    why="{file} is valid from {begin:%Y-%m-%d %H:%M} UTC, and this machine's clock says {now:%Y-%m-%d %H:%M}",
    resolution="Check the clock (timedatectl), or wait",
    example="certificates: {mode: imported, ...}   # valid from tomorrow",
)
CRL_OLD = CATALOGUE.add(
    "CRL_OUTDATED",
    severity="warning",
    what="A revocation list is out of date",
    why="{file} should have been replaced by {end:%Y-%m-%d %H:%M} UTC; what was revoked since is accepted",
    resolution="Fetch the current list from its CA",
    example="certificates: {mode: imported, crl: [/etc/ssl/old.crl], ...}",
)

_TROUBLES = {
    "missing": FILE_MISSING,
    "empty": FILE_EMPTY,
    "not_readable": FILE_NOT_READABLE,
    "truncated": FILE_TRUNCATED,
    "not_pem": FILE_NOT_PEM,
    "encrypted": FILE_ENCRYPTED,
    "not_ca": FILE_NOT_CA,
    "foreign": CRL_FOREIGN,
}


def name_covers(pattern: str, host: str) -> bool:
    """Whether a certificate's DNS name covers a host: equal, or `*.` for exactly one label (RFC 6125 section 6.4.3)."""
    pattern, host = pattern.lower().removesuffix("."), host.lower().removesuffix(".")
    if pattern.startswith("*."):
        first, dot, rest = host.partition(".")
        return bool(first and dot) and rest == pattern[2:] and "." in rest
    return pattern == host


def names_cover(names: tuple[str, ...], host: str) -> bool:
    """The same for all names of a certificate; an address must be there as an address."""
    try:
        address = ip_address(host)
    except ValueError:
        return any(name_covers(name, host) for name in names)
    return str(address) in names


def document(settings: Settings, facts: Facts) -> Iterator[Problem]:
    certificates = settings.certificates
    named = {
        "certificates.server_certificate": bool(certificates.server_certificate),
        "certificates.server_key": bool(certificates.server_key),
        "certificates.client_ca": bool(certificates.client_ca),
        "certificates.crl": bool(certificates.crl),
    }
    if certificates.mode == "imported":
        needed = ["certificates.server_certificate", "certificates.server_key"]
        if settings.ip_https.authentication == "certificates":
            needed.append("certificates.client_ca")
        for setting in needed:
            if not named[setting]:
                yield NEEDS_FILE.problem(setting, setting=setting)
    else:
        for setting, given in named.items():
            if given:
                yield IGNORED_FILE.problem(setting, setting=setting)
        before = certificates.renew_before_days
        for key in ("client_lifetime_days", "server_lifetime_days"):
            if (days := getattr(certificates, key)) <= before:
                setting = f"certificates.{key}"
                yield RENEW_EARLY.problem(setting, setting=setting, days=days, before=before)
    if settings.ip_https.authentication == "none":
        yield NO_AUTHENTICATION.problem("ip_https.authentication")


def files(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if settings.certificates.mode == "imported":
        for found in facts.certificate_files:
            if found.trouble is not None:
                kind = _TROUBLES[found.trouble]
                detail = found.detail or "no details"
                yield kind.problem(found.setting, file=found.file, setting=found.setting, detail=detail)
                continue
            yield from _lifetime(settings, facts, found)
            if found.setting == "certificates.server_certificate":
                yield from _server(settings, found)
    elif facts.built_in_ca is not None and facts.built_in_ca.trouble is None:
        yield from _lifetime(settings, facts, facts.built_in_ca)


def _server(settings: Settings, found: CertificateFile) -> Iterator[Problem]:
    connect_to = settings.deployment.connect_to
    if found.key_matches is False:
        yield KEY_MISMATCH.problem("certificates.server_key", key=settings.certificates.server_key, file=found.file)
    if not found.names:
        yield NO_SAN.problem(found.setting, file=found.file, connect_to=connect_to)
    elif not names_cover(found.names, connect_to):
        names = ", ".join(found.names[:5])
        yield NAME_MISMATCH.problem(found.setting, file=found.file, names=names, connect_to=connect_to)
    if not found.has_subject:
        yield NO_SUBJECT.problem(found.setting, file=found.file, connect_to=connect_to)
    if not found.server_auth:
        yield WRONG_USAGE.problem(found.setting, file=found.file)


def _lifetime(settings: Settings, facts: Facts, found: CertificateFile) -> Iterator[Problem]:
    now = facts.now
    if now is None:
        return
    if found.next_update is not None and now >= found.next_update:
        yield CRL_OLD.problem(found.setting, file=found.file, end=found.next_update)
    if found.not_before is not None and now < found.not_before:
        yield NOT_YET.problem(found.setting, file=found.file, begin=found.not_before, now=now)
    if found.not_after is None:
        return
    if now >= found.not_after:
        yield EXPIRED.problem(found.setting, file=found.file, end=found.not_after)
    elif found.not_after - now < timedelta(days=settings.certificates.renew_before_days):
        days = (found.not_after - now).days
        yield EXPIRES_SOON.problem(found.setting, file=found.file, end=found.not_after, days=days)


RULES = (document, files)
