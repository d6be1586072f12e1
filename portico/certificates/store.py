"""What was issued, to whom, what is revoked, and which enrolment tokens are open: one SQLite file, mode 0600."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from portico.certificates.listing_schema import make_listable
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import not_written
from portico.settings.database import Database

DATABASE_NAME = "certificates.sqlite"

Kind = Literal["client", "server"]


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        """CREATE TABLE issued (
            issuer_sha256 TEXT NOT NULL,
            serial TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('client', 'server')),
            name TEXT NOT NULL,
            not_before TEXT NOT NULL,
            not_after TEXT NOT NULL,
            issued TEXT NOT NULL,
            token TEXT,
            certificate TEXT NOT NULL,
            PRIMARY KEY (issuer_sha256, serial)
        ) STRICT"""
    )
    connection.execute("CREATE INDEX issued_name ON issued (name)")
    # Certificates of imported CAs are revoked here too, so a revocation needs no row in `issued`.
    connection.execute(
        """CREATE TABLE revoked (
            issuer_sha256 TEXT NOT NULL,
            serial TEXT NOT NULL,
            name TEXT NOT NULL,
            revoked TEXT NOT NULL,
            reason TEXT NOT NULL,
            not_after TEXT,
            PRIMARY KEY (issuer_sha256, serial)
        ) STRICT"""
    )
    connection.execute(
        """CREATE TABLE token (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            secret_sha256 TEXT NOT NULL,
            created TEXT NOT NULL,
            expires TEXT NOT NULL,
            author TEXT NOT NULL,
            failures INTEGER NOT NULL DEFAULT 0,
            used TEXT,
            burned TEXT
        ) STRICT"""
    )
    connection.execute("CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT")


def _log_changes(connection: sqlite3.Connection) -> None:
    # What changed, in order, for the other servers of a cluster: each row once, under the number of its last change.
    # Triggers see every change, whichever code makes it; a row that is taken over unchanged fires none.
    connection.execute(
        """CREATE TABLE change (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            key TEXT NOT NULL,
            UNIQUE (kind, key)
        ) STRICT"""
    )
    for kind, key in CHANGE_KEYS.items():
        new = ", ".join(f"NEW.{column}" for column in key)
        # Not INSERT OR REPLACE: in a trigger the conflict clause of the statement that fired it would hold instead.
        note = (
            f"DELETE FROM change WHERE kind = '{kind}' AND key = json_array({new});"  # noqa: S608
            f" INSERT INTO change (kind, key) VALUES ('{kind}', json_array({new}));"
        )
        for event in ("INSERT", "UPDATE"):
            connection.execute(f"CREATE TRIGGER {kind}_{event.lower()} AFTER {event} ON {kind} BEGIN {note} END")
        connection.execute(
            f"INSERT INTO change (kind, key) SELECT '{kind}', json_array({', '.join(key)}) FROM {kind} ORDER BY rowid"  # noqa: S608
        )
    forget = "DELETE FROM change WHERE kind = 'token' AND key = json_array(OLD.id);"
    connection.execute(f"CREATE TRIGGER token_delete AFTER DELETE ON token BEGIN {forget} END")
    # The identity of this log: numbers mean nothing in another one, or in one that was put back from a backup.
    connection.execute("CREATE TABLE log (id TEXT NOT NULL) STRICT")
    connection.execute("INSERT INTO log VALUES (lower(hex(randomblob(16))))")
    connection.execute("CREATE TABLE position (log TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT")


CHANGE_KEYS = {"issued": ("issuer_sha256", "serial"), "revoked": ("issuer_sha256", "serial"), "token": ("id",)}
"""Tables that the servers of a cluster have in common, and their keys."""

MIGRATIONS = (_create, _log_changes, make_listable)

TRACES = ("server.pem", "crl.pem", "revoked.json")
"""Files beside the store that exist only after it was used."""

RESOLUTION = "Restore it from a backup, or start a new one that knows what is revoked: portico ca repair"


@dataclass(frozen=True)
class IssuedRecord:
    """A certificate of the built-in CA. Times in UTC; `revoked` is when, None while it is good."""

    issuer_sha256: str
    serial: str
    kind: Kind
    name: str
    not_before: datetime
    not_after: datetime
    issued: datetime
    token: str | None
    certificate: str
    revoked: datetime | None
    reason: str | None

    def as_dict(self) -> dict[str, Any]:
        """Without the certificate itself."""
        return {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in vars(self).items()
            if key != "certificate"
        }


@dataclass(frozen=True)
class RevokedRecord:
    """A revoked certificate; `not_after` is None when unknown (imported)."""

    issuer_sha256: str
    serial: str
    name: str
    revoked: datetime
    reason: str
    not_after: datetime | None


@dataclass(frozen=True)
class TokenRecord:
    """An enrolment token, without its secret."""

    id: str
    name: str
    created: datetime
    expires: datetime
    author: str
    failures: int
    used: datetime | None
    burned: datetime | None

    def state(self, now: datetime) -> Literal["open", "used", "burned", "expired"]:
        if self.used is not None:
            return "used"
        if self.burned is not None:
            return "burned"
        return "expired" if now >= self.expires else "open"

    def as_dict(self, now: datetime) -> dict[str, Any]:
        fields = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in vars(self).items()}
        return {**fields, "state": self.state(now)}


class CertificateStore:
    """The records of one server. Methods that take a connection run inside the caller's transaction."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory = directory
        self._database = database

    @classmethod
    def open(cls, directory: Path, *, new: bool = False) -> CertificateStore:
        """Opens or creates the store (directory 0700).

        Args:
            new: whether an empty store may take the place of one that is gone.

        Raises:
            InvalidInput: code DATABASE_CORRUPT, DATABASE_NEWER; also when it is gone or empty although certificates
                were issued or revoked (`TRACES`): an empty one would let revoked clients in. Revocations are then
                read from the last copies, see `portico.certificates.revocation`.
            Unavailable: it cannot be opened.
        """
        path = directory / DATABASE_NAME
        if not new:
            _require_content(directory, path)
        try:
            return cls(directory, Database.open(path, MIGRATIONS))
        except PorticoError as error:
            if error.code == "DATABASE_CORRUPT":
                error.resolution = RESOLUTION
            raise

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._database.read()

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._database.transaction()

    def close(self) -> None:
        self._database.close()

    def add_issued(self, connection: sqlite3.Connection, record: IssuedRecord) -> None:
        connection.execute(
            "INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.issuer_sha256,
                record.serial,
                record.kind,
                record.name,
                stamp(record.not_before),
                stamp(record.not_after),
                stamp(record.issued),
                record.token,
                record.certificate,
            ),
        )

    def issued(
        self,
        *,
        kind: Kind | None = None,
        name: str | None = None,
        serial: str | None = None,
        issuer_sha256: str | None = None,
        limit: int = 1000,
    ) -> list[IssuedRecord]:
        """Issued certificates, newest first, narrowed by what is given."""
        wanted = {"i.kind": kind, "i.name": name, "i.serial": serial, "i.issuer_sha256": issuer_sha256}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "true"
        query = f"{SELECT_ISSUED} WHERE {where} ORDER BY i.issued DESC, i.rowid DESC LIMIT ?"
        with self._database.read() as connection:
            return [issued_record(row) for row in connection.execute(query, (*given.values(), limit))]

    def add_revoked(self, connection: sqlite3.Connection, record: RevokedRecord) -> bool:
        """False when the certificate is revoked already; the first time and reason stay."""
        cursor = connection.execute(
            "INSERT INTO revoked VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                record.issuer_sha256,
                record.serial,
                record.name,
                stamp(record.revoked),
                record.reason,
                stamp(record.not_after) if record.not_after is not None else None,
            ),
        )
        return cursor.rowcount == 1

    def revoked(self) -> list[RevokedRecord]:
        """Every revocation, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT * FROM revoked ORDER BY revoked, rowid").fetchall()
        return [
            RevokedRecord(
                issuer_sha256=row[0],
                serial=row[1],
                name=row[2],
                revoked=moment(row[3]),
                reason=row[4],
                not_after=moment(row[5]) if row[5] else None,
            )
            for row in rows
        ]

    def tokens(self) -> list[TokenRecord]:
        """Every enrolment token, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(f"{SELECT_TOKEN} ORDER BY created DESC, rowid DESC").fetchall()
        return [token_record(row) for row in rows]

    def token(self, identifier: str) -> TokenRecord:
        """One enrolment token. Raises NotFound (TOKEN_NOT_FOUND)."""
        with self._database.read() as connection:
            row = connection.execute(f"{SELECT_TOKEN} WHERE id = ?", (identifier,)).fetchone()
        if row is None:
            raise NotFound(
                f"there is no enrolment token {identifier}",
                resolution="List them with: portico ca token list",
                code="TOKEN_NOT_FOUND",
            )
        return token_record(row)

    def next_number(self, connection: sqlite3.Connection, name: str) -> int:
        """Counts up from 1 per name."""
        row = connection.execute(
            "INSERT INTO counter VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
            (name,),
        ).fetchone()
        return int(row[0])


def _require_content(directory: Path, path: Path) -> None:
    try:
        if path.exists() and path.stat().st_size > 0:
            return
        used = [name for name in TRACES if (directory / name).exists()]
        why = "it is empty" if path.exists() else "it is missing"
    except OSError as error:
        raise not_written(path, error) from None
    if used:
        raise InvalidInput(
            f"{path} is damaged",
            why=f"{why}, although {used[0]} shows that it was used",
            resolution=RESOLUTION,
            code="DATABASE_CORRUPT",
        )


SELECT_ISSUED = (
    "SELECT i.issuer_sha256, i.serial, i.kind, i.name, i.not_before, i.not_after, i.issued, i.token,"
    " i.certificate, r.revoked, r.reason, i.rowid"
    " FROM issued i LEFT JOIN revoked r ON r.issuer_sha256 = i.issuer_sha256 AND r.serial = i.serial"
)

SELECT_TOKEN = "SELECT id, name, created, expires, author, failures, used, burned, rowid FROM token"  # noqa: S105


def issued_record(row: tuple[Any, ...]) -> IssuedRecord:
    """A row of `SELECT_ISSUED`."""
    return IssuedRecord(
        issuer_sha256=row[0],
        serial=row[1],
        kind=row[2],
        name=row[3],
        not_before=moment(row[4]),
        not_after=moment(row[5]),
        issued=moment(row[6]),
        token=row[7],
        certificate=row[8],
        revoked=moment(row[9]) if row[9] else None,
        reason=row[10],
    )


def token_record(row: tuple[Any, ...]) -> TokenRecord:
    return TokenRecord(
        id=row[0],
        name=row[1],
        created=moment(row[2]),
        expires=moment(row[3]),
        author=row[4],
        failures=row[5],
        used=moment(row[6]) if row[6] else None,
        burned=moment(row[7]) if row[7] else None,
    )


def stamp(time: datetime) -> str:
    """A time as stored: UTC, fixed width, so that text order is time order."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
