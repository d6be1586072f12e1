"""Lists of the store of certificates in pages. A page reads the rows that it shows, however many there are. Blocking.

A page goes on behind a *cursor*: the place of the last row of the page before, not its number, so that what is added
meanwhile neither repeats a row nor leaves one out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from portico.certificates.listing_schema import CLIENTS
from portico.certificates.store import (
    SELECT_ISSUED,
    SELECT_TOKEN,
    CertificateStore,
    IssuedRecord,
    TokenRecord,
    issued_record,
    moment,
    token_record,
)
from portico.errors import InvalidInput

_CURSOR = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)/(\d{1,18})", flags=re.ASCII)


@dataclass(frozen=True)
class ClientRow:
    """What the list of clients says of a certificate. Times are ISO 8601 in UTC; `revoked` is None while it is good."""

    name: str
    serial: str
    not_after: str
    revoked: str | None


def issued_page(
    store: CertificateStore,
    *,
    name: str | None = None,
    serial: str | None = None,
    after: str | None = None,
    limit: int,
) -> tuple[list[IssuedRecord], str | None]:
    """Issued certificates, newest first, and the cursor of the next page.

    Raises:
        InvalidInput: code CURSOR_INVALID.
    """
    conditions, values = _behind("i.issued", "i.rowid", after)
    for column, value in (("i.name", name), ("i.serial", serial)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    query = f"{SELECT_ISSUED} WHERE {' AND '.join(conditions)} ORDER BY i.issued DESC, i.rowid DESC LIMIT ?"
    with store.read() as connection:
        rows = connection.execute(query, (*values, limit + 1)).fetchall()
    page = rows[:limit]
    return [issued_record(row) for row in page], f"{page[-1][6]}/{page[-1][11]}" if len(rows) > limit else None


def token_page(
    store: CertificateStore, *, after: str | None = None, limit: int
) -> tuple[list[TokenRecord], str | None]:
    """Enrolment tokens, newest first, and the cursor of the next page.

    Raises:
        InvalidInput: code CURSOR_INVALID.
    """
    conditions, values = _behind("created", "rowid", after)
    query = f"{SELECT_TOKEN} WHERE {' AND '.join(conditions)} ORDER BY created DESC, rowid DESC LIMIT ?"
    with store.read() as connection:
        rows = connection.execute(query, (*values, limit + 1)).fetchall()
    page = rows[:limit]
    return [token_record(row) for row in page], f"{page[-1][2]}/{page[-1][8]}" if len(rows) > limit else None


def client_names(store: CertificateStore, *, after: str | None, limit: int) -> list[str]:
    """Names that client certificates were issued to, in their order, behind one of them."""
    with store.read() as connection:
        rows = connection.execute(
            "SELECT DISTINCT name FROM issued WHERE kind = 'client' AND name > ? ORDER BY name LIMIT ?",
            (after if after is not None else "", limit),
        ).fetchall()
    return [str(row[0]) for row in rows]


def client_rows(store: CertificateStore, names: Sequence[str]) -> list[ClientRow]:
    """The certificates of these clients, newest first."""
    # CROSS JOIN keeps the order of the loops: a look-up for each name, not a look through all certificates.
    query = (
        "SELECT i.name, i.serial, i.not_after, r.revoked FROM json_each(?) n CROSS JOIN issued i"
        " ON i.kind = 'client' AND i.name = n.value"
        " LEFT JOIN revoked r ON r.issuer_sha256 = i.issuer_sha256 AND r.serial = i.serial"
        " ORDER BY i.issued DESC, i.rowid DESC"
    )
    with store.read() as connection:
        rows = connection.execute(query, (json.dumps(list(names)),)).fetchall()
    return [
        ClientRow(row[0], row[1], moment(row[2]).isoformat(), moment(row[3]).isoformat() if row[3] else None)
        for row in rows
    ]


def client_total(store: CertificateStore) -> int:
    """How many names client certificates were issued to."""
    with store.read() as connection:
        row = connection.execute("SELECT value FROM counter WHERE name = ?", (CLIENTS,)).fetchone()
    return int(row[0]) if row is not None else 0


def _behind(time: str, place: str, after: str | None) -> tuple[list[str], list[str | int]]:
    if after is None:
        return ["true"], []
    found = _CURSOR.fullmatch(after)
    if found is None:
        raise bad_cursor()
    return [f"({time}, {place}) < (?, ?)"], [found[1], int(found[2])]


def bad_cursor() -> InvalidInput:
    return InvalidInput(
        "The list cannot go on from there",
        why="'after' is not what a page of this list gave as 'next'",
        resolution="Give 'next' of the page before, or leave 'after' out to begin anew",
        code="CURSOR_INVALID",
    )
