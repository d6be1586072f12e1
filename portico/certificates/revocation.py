"""Revocation: records -> the gateway's list, a signed CRL, and the lists of imported CAs.

The signed CRL on disk is the last good copy: when the database is damaged, revoked clients stay out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from portico.certificates.ca import CertificateAuthority
from portico.certificates.store import DATABASE_NAME, CertificateStore, IssuedRecord, RevokedRecord, stamp
from portico.certificates.trust import name_sha256, name_text, serial_hex
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import read_file, write_file
from portico.settings.database import set_aside

CRL_NAME = "crl.pem"
REVOKED_NAME = "revoked.json"
CRL_LIFETIME = timedelta(days=7)
MAXIMUM_CRL = 64 << 20

_HEX = re.compile(r"[0-9a-f]+", flags=re.ASCII)

REASONS = {
    "unspecified": x509.ReasonFlags.unspecified,
    "key-compromise": x509.ReasonFlags.key_compromise,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
}


@dataclass(frozen=True, order=True)
class Revoked:
    """A certificate as the gateway refuses it."""

    issuer_sha256: str
    serial: str

    def as_dict(self) -> dict[str, str]:
        return {"issuer_sha256": self.issuer_sha256, "serial": self.serial}


def revoke(
    store: CertificateStore,
    *,
    name: str | None = None,
    serial: str | None = None,
    reason: str = "unspecified",
    now: datetime,
) -> list[IssuedRecord]:
    """Revokes the good certificates of a client, or the one with this serial number; burns the client's open tokens.

    Returns:
        What was revoked just now; empty when everything it names was revoked or has expired already.

    Raises:
        NotFound: code CERTIFICATE_NOT_FOUND.
        InvalidInput: code REASON_UNKNOWN, REVOKE_WHAT.
    """
    _check_reason(reason)
    if (name is None) == (serial is None):
        raise InvalidInput(
            "nothing was revoked", why="a name or a serial number is needed, not both", code="REVOKE_WHAT"
        )
    wanted = serial.lower().lstrip("0") or "0" if serial is not None else None
    records = store.issued(name=name, serial=wanted, kind="client" if name is not None else None, limit=100_000)
    if not records:
        raise NotFound(
            f"no certificate was issued to '{name}'" if name is not None else f"no certificate has the serial {serial}",
            resolution="List them with: portico ca list",
            code="CERTIFICATE_NOT_FOUND",
        )
    done = []
    with store.transaction() as connection:
        for record in records:
            if record.revoked is None and now < record.not_after:
                revoked = RevokedRecord(record.issuer_sha256, record.serial, record.name, now, reason, record.not_after)
                if store.add_revoked(connection, revoked):
                    done.append(record)
        if name is not None:
            connection.execute(
                "UPDATE token SET burned = ? WHERE name = ? AND used IS NULL AND burned IS NULL", (stamp(now), name)
            )
    return done


def revoke_foreign(
    store: CertificateStore, *, issuer_sha256: str, serial: str, name: str, reason: str = "unspecified", now: datetime
) -> bool:
    """Revokes a certificate of an imported CA on this deployment only; False when it was already.

    Raises:
        InvalidInput: code REASON_UNKNOWN.
    """
    _check_reason(reason)
    with store.transaction() as connection:
        return store.add_revoked(connection, RevokedRecord(issuer_sha256, serial, name, now, reason, None))


def revoked_list(store: CertificateStore, now: datetime) -> list[Revoked]:
    """The revoked certificates that have not expired anyway, sorted."""
    return sorted(
        Revoked(record.issuer_sha256, record.serial)
        for record in store.revoked()
        if record.not_after is None or now < record.not_after
    )


def write_crl(authority: CertificateAuthority, store: CertificateStore, directory: Path, now: datetime) -> Path:
    """Signs the CA's revocation list (RFC 5280 section 5) and writes it as `crl.pem`, mode 0644.

    Raises:
        PorticoError: of the store or the file; the list before is still there.
    """
    now = now.astimezone(UTC).replace(microsecond=0)
    with store.transaction() as connection:
        number = store.next_number(connection, "crl")
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now)
        .next_update(now + CRL_LIFETIME)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    for record in store.revoked():
        if record.issuer_sha256 != authority.issuer_sha256 or (
            record.not_after is not None and now >= record.not_after
        ):
            continue
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(record.serial, 16))
            .revocation_date(record.revoked.astimezone(UTC).replace(microsecond=0))
        )
        reason = REASONS.get(record.reason, x509.ReasonFlags.unspecified)
        if reason is not x509.ReasonFlags.unspecified:  # RFC 5280 5.3.1: absent rather than unspecified
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    crl = builder.sign(authority.key, hashes.SHA256())
    path = directory / CRL_NAME
    write_file(path, crl.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return path


def read_crl(path: Path, issuers: Sequence[x509.Certificate]) -> tuple[x509.CertificateRevocationList, list[Revoked]]:
    """A revocation list (PEM or DER) that one of the issuers signed, and its entries.

    Entries that only end a hold (removeFromCRL) are left out.

    Raises:
        PorticoError: of `read_file`; InvalidInput with codes CRL_DAMAGED, CRL_FOREIGN. Each names the file.
    """
    data = read_file(path, limit=MAXIMUM_CRL)
    what = f"the revocation list {path} cannot be used"
    try:
        pem = b"-----BEGIN" in data
        crl = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        issuer = name_sha256(crl.issuer)
        # The extensions of a list are decoded on first use; damage must show here.
        _ = (crl.extensions, crl.next_update_utc, crl.last_update_utc)
        entries = [Revoked(issuer, serial_hex(entry.serial_number)) for entry in crl if not _only_removes(entry)]
    except Exception as error:
        raise InvalidInput(
            what,
            why=f"it is not a revocation list, or it is damaged ({type(error).__name__})",
            resolution="Fetch it again from its CA",
            code="CRL_DAMAGED",
        ) from None
    if not any(_signed_by(crl, certificate) for certificate in issuers):
        raise InvalidInput(
            what,
            why=f"none of the accepted CAs signed it (it names {name_text(crl.issuer)})",
            resolution="Add its CA to certificates.client_ca, or remove the list",
            code="CRL_FOREIGN",
        )
    return crl, entries


@dataclass(frozen=True)
class Revocations:
    """What the gateway must refuse, and what went wrong while finding out."""

    entries: tuple[Revoked, ...]
    problems: tuple[PorticoError, ...]


def current_revocations(
    store: CertificateStore | None,
    *,
    directory: Path,
    authority: CertificateAuthority | None,
    crls: Iterable[Path] = (),
    issuers: Sequence[x509.Certificate] = (),
    previous: Iterable[Revoked] = (),
    now: datetime,
) -> Revocations:
    """Everything revoked: records, the last signed CRL when there are no records, and the imported lists.

    A source that cannot be read never shortens the list: entries of `previous` are kept then.

    Args:
        store: None when it could not be opened.
        previous: the list before, of this process or of the one before it (`load_revoked`).
        directory: where `write_crl` writes.
    """
    entries: set[Revoked] = set()
    problems: list[PorticoError] = []
    records = False
    if store is not None:
        try:
            entries.update(revoked_list(store, now))
            records = True
        except PorticoError as error:
            problems.append(error)
    if not records and authority is not None:
        try:
            entries.update(read_crl(directory / CRL_NAME, [authority.certificate])[1])
        except NotFound:
            pass  # nothing was ever revoked
        except PorticoError as error:
            problems.append(error)
    for path in crls:
        try:
            entries.update(read_crl(path, issuers)[1])
        except PorticoError as error:
            problems.append(error)
    if problems or not records:
        entries.update(previous)
    return Revocations(tuple(sorted(entries)), tuple(problems))


def load_revoked(directory: Path) -> tuple[Revoked, ...]:
    """The list that the gateway was given last; empty when there is none.

    Raises:
        PorticoError: of `read_file`; InvalidInput with code REVOKED_DAMAGED. Each names the file.
    """
    path = directory / REVOKED_NAME
    try:
        data = read_file(path, limit=MAXIMUM_CRL)
    except NotFound:
        return ()
    try:
        entries = [Revoked(entry["issuer_sha256"], entry["serial"]) for entry in json.loads(data)]
        if not all(_HEX.fullmatch(entry.issuer_sha256) and _HEX.fullmatch(entry.serial) for entry in entries):
            raise ValueError("it holds something else than numbers")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(
            f"the last list of revoked certificates {path} cannot be used",
            why=f"it is damaged ({type(error).__name__})",
            resolution=f"It is written again from the records; without them, remove it: rm {path}",
            code="REVOKED_DAMAGED",
        ) from None
    return tuple(sorted(set(entries)))


def save_revoked(directory: Path, entries: Iterable[Revoked]) -> None:
    """Keeps the list for the next start. Raises Unavailable (FILE_NOT_WRITTEN)."""
    write_file(directory / REVOKED_NAME, json.dumps([entry.as_dict() for entry in entries]).encode())


def restore_lost(store: CertificateStore, directory: Path, authority: CertificateAuthority, now: datetime) -> int:
    """Enters revocations again that the signed list has and the records lack; returns how many.

    A store that was put back from a backup, or lost its last transactions, forgets revocations; the list does not.

    Raises:
        PorticoError: of the list or the store; NotFound when there is no list.
    """
    crl, _ = read_crl(directory / CRL_NAME, [authority.certificate])
    known = {record.serial for record in store.revoked() if record.issuer_sha256 == authority.issuer_sha256}
    lost = [entry for entry in crl if serial_hex(entry.serial_number) not in known]
    if lost:
        records = {record.serial: record for record in store.issued(issuer_sha256=authority.issuer_sha256, limit=10**6)}
        with store.transaction() as connection:
            for entry in lost:
                serial = serial_hex(entry.serial_number)
                issued = records.get(serial)
                store.add_revoked(
                    connection,
                    RevokedRecord(
                        authority.issuer_sha256,
                        serial,
                        issued.name if issued is not None else "",
                        min(entry.revocation_date_utc, now),
                        "unspecified",
                        issued.not_after if issued is not None else None,
                    ),
                )
    return len(lost)


def recover(directory: Path, authority: CertificateAuthority, now: datetime) -> tuple[CertificateStore, Path]:
    """Puts a damaged store aside and starts a new one that knows the revocations of the last signed list.

    What was issued and which tokens were open is lost: clients stay connected until their certificates end, then
    they must be enrolled again.

    Returns:
        The new store and the damaged file's new name.

    Raises:
        PorticoError: the list is there but cannot be read, or nothing can be written; the damaged store stays then.
    """
    try:
        crl, _ = read_crl(directory / CRL_NAME, [authority.certificate])
        entries = [(serial_hex(entry.serial_number), entry.revocation_date_utc) for entry in crl]
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except NotFound:
        entries, number = [], 0
    # Certificates of imported CAs are on no signed list of ours; the last list of the gateway has them too.
    kept = [entry for entry in load_revoked(directory) if entry.issuer_sha256 != authority.issuer_sha256]
    aside = set_aside(directory / DATABASE_NAME, now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ"))
    store = CertificateStore.open(directory, new=True)
    with store.transaction() as connection:
        connection.execute("INSERT INTO counter VALUES ('crl', ?)", (number,))
        for serial, revoked in entries:
            record = RevokedRecord(authority.issuer_sha256, serial, "", revoked, "unspecified", None)
            store.add_revoked(connection, record)
        for other in kept:
            store.add_revoked(
                connection, RevokedRecord(other.issuer_sha256, other.serial, "", now, "unspecified", None)
            )
    return store, aside


def _check_reason(reason: str) -> None:
    if reason not in REASONS:
        raise InvalidInput(
            f"'{reason}' is not a reason for revocation",
            why=f"it is one of: {', '.join(REASONS)}",
            code="REASON_UNKNOWN",
        )


def _only_removes(entry: x509.RevokedCertificate) -> bool:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except x509.ExtensionNotFound:
        return False
    return reason is x509.ReasonFlags.remove_from_crl


def _signed_by(crl: x509.CertificateRevocationList, certificate: x509.Certificate) -> bool:
    if crl.issuer != certificate.subject:
        return False
    try:
        return crl.is_signature_valid(certificate.public_key())  # type: ignore[arg-type]
    except Exception:
        return False  # a key of a kind that cannot sign lists signed none
