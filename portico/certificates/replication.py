"""The records of certificates on several servers: what changed since a number, and taking over what others changed.

Rows only grow: a certificate that was issued stays issued, a revoked one revoked, a used token used. So rows
may come from any server, twice and in any order, and all servers that saw the same ones agree. The log keeps one entry
for each row, so that a server which was away for a year reads each row once, as a snapshot would give it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from portico.certificates.store import CHANGE_KEYS, CertificateStore, moment
from portico.errors import InvalidInput

PAGE: Final = 500
MAXIMUM_TEXT: Final = 64 << 10
MAXIMUM_LOGS: Final = 64
"""Logs whose position is remembered; the others are read again from their beginning, which changes nothing."""

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "issued": (
        "issuer_sha256",
        "serial",
        "kind",
        "name",
        "not_before",
        "not_after",
        "issued",
        "token",
        "certificate",
    ),
    "revoked": ("issuer_sha256", "serial", "name", "revoked", "reason", "not_after"),
    "token": ("id", "name", "secret_sha256", "created", "expires", "author", "failures", "used", "burned"),
}
_OPTIONAL = {("issued", "token"), ("revoked", "not_after"), ("token", "used"), ("token", "burned")}
_TIMES = {"not_before", "not_after", "issued", "revoked", "created", "expires", "used", "burned"}
_HEX = re.compile(r"[0-9a-f]{1,64}", flags=re.ASCII)

_TAKE = {
    "issued": "INSERT INTO issued VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "revoked": "INSERT INTO revoked VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    "token": "INSERT INTO token VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
    " failures = max(failures, excluded.failures), used = coalesce(used, excluded.used),"
    " burned = coalesce(burned, excluded.burned)"
    # Only what is really new: an update without a change would go round all servers for ever.
    " WHERE excluded.failures > failures OR (used IS NULL AND excluded.used IS NOT NULL)"
    " OR (burned IS NULL AND excluded.burned IS NOT NULL)",
}


@dataclass(frozen=True)
class Page:
    """Changes of one log.

    Attributes:
        log: which log; numbers mean nothing in another one.
        number: of the last change that this page covers.
        rows: {kind, row}; rows that were deleted meanwhile are left out.
        more: whether there are changes after it.
    """

    log: str
    number: int
    rows: list[dict[str, Any]]
    more: bool

    def as_data(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def from_data(cls, data: Any) -> Page:
        """Raises InvalidInput (RECORDS_MALFORMED) for anything that `as_data` does not make."""
        try:
            page = cls(str(data["log"]), int(data["number"]), list(data["rows"]), data["more"] is True)
            if not _HEX.fullmatch(page.log) or page.number < 0 or page.number >= 1 << 62 or len(page.rows) > PAGE:
                raise ValueError("a value is out of its range")
            for item in page.rows:
                _values(item)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise InvalidInput(
                "Records of another server cannot be used",
                why=f"they are malformed ({type(error).__name__}: {str(error)[:200]})",
                resolution="Use the same version of Portico on all servers",
                code="RECORDS_MALFORMED",
            ) from None
        return page


def newest(store: CertificateStore) -> tuple[str, int]:
    """The log's identity and the number of its last change. Raises PorticoError."""
    with store.read() as connection:
        return _log(connection), _last(connection)


def changes(store: CertificateStore, log: str, after: int, *, limit: int = PAGE) -> Page:
    """What changed after a number; from the beginning when the number is of another log. Raises PorticoError."""
    with store.read() as connection:
        own = _log(connection)
        if log != own:
            after = 0
        limit = max(1, min(limit, PAGE))
        found = connection.execute(
            "SELECT number, kind, key FROM change WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
        ).fetchall()
        rows = []
        for _, kind, key in found:
            columns, keys = _COLUMNS[kind], CHANGE_KEYS[kind]
            where = " AND ".join(f"{column} = ?" for column in keys)
            row = connection.execute(
                f"SELECT {', '.join(columns)} FROM {kind} WHERE {where}",  # noqa: S608  # of fixed words
                json.loads(key),
            ).fetchone()
            if row is not None:
                rows.append({"kind": kind, "row": list(row)})
        number = found[-1][0] if found else after
        return Page(own, number, rows, len(found) == limit and number < _last(connection))


def take_over(store: CertificateStore, page: Page) -> bool:
    """Enters the rows of another server and remembers how far its log was read; whether anything was new.

    Raises:
        PorticoError: nothing was entered.
    """
    with store.transaction() as connection:
        before = _last(connection)
        for item in page.rows:
            connection.execute(_TAKE[item["kind"]], _values(item))
        connection.execute(
            "INSERT INTO position VALUES (?, ?) ON CONFLICT (log) DO UPDATE SET number = excluded.number",
            (page.log, page.number),
        )
        connection.execute(
            "DELETE FROM position WHERE rowid NOT IN (SELECT rowid FROM position ORDER BY rowid DESC LIMIT ?)",
            (MAXIMUM_LOGS,),
        )
        return _last(connection) != before


def position(store: CertificateStore, log: str) -> int:
    """How far another server's log was read. Raises PorticoError."""
    with store.read() as connection:
        row = connection.execute("SELECT number FROM position WHERE log = ?", (log,)).fetchone()
    return int(row[0]) if row is not None else 0


def _log(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT id FROM log").fetchone()[0])


def _last(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(number), 0) FROM change").fetchone()[0])


def _values(item: Any) -> Sequence[Any]:
    kind, row = item["kind"], item["row"]
    columns = _COLUMNS[kind]
    if not isinstance(row, list) or len(row) != len(columns):
        raise ValueError(f"a row of {kind} has another number of columns")
    for column, value in zip(columns, row, strict=True):
        if value is None and (kind, column) in _OPTIONAL:
            continue
        if column == "failures":
            if type(value) is not int or not 0 <= value < 1 << 31:
                raise ValueError("failures is no small number")
            continue
        if not isinstance(value, str) or len(value) > MAXIMUM_TEXT:
            raise ValueError(f"{kind}.{column} is no text")
        value.encode()  # lone surrogates cannot be stored
        if column in _TIMES:
            moment(value)
        if column in ("serial", "issuer_sha256", "secret_sha256") and not _HEX.fullmatch(value):
            raise ValueError(f"{kind}.{column} is no number")
    if kind == "issued" and row[2] not in ("client", "server"):
        raise ValueError("the kind of a certificate is unknown")
    return row
