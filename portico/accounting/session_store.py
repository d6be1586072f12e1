"""The inbox accounting store of one server: clients' sessions in SQLite. Blocking; one transaction for each batch.

A session's row is written when it begins and again while it lasts, so that a crash loses its last half minute and not
the session. What a crash left open is closed at the next start with the time at which it was last seen.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from portico.settings.database import Database

NAME: Final = "sessions.sqlite"

MAXIMUM_ROWS: Final = 5_000_000
"""Sessions kept at most, whatever the limit of time: some 1.5 GB. The oldest go first."""

MAXIMUM_PAGE: Final = 10_000


@dataclass
class Session:
    """One tunnel of a client. Times are seconds since the epoch.

    Attributes:
        row: its number in the store; None until it was written.
        ended: None while it lasts.
        reason: why it ended: the gateway's word, or `lost` when nobody saw it.
    """

    number: int
    server: str
    name: str
    serial: str | None
    peer: str
    started: float
    last_seen: float
    technology: str = "IPHTTPS"
    addresses: list[str] = field(default_factory=list)
    bytes_in: int = 0
    bytes_out: int = 0
    ended: float | None = None
    reason: str | None = None
    row: int | None = None


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, server TEXT NOT NULL, name TEXT NOT NULL, "
        "serial TEXT, technology TEXT NOT NULL, peer TEXT NOT NULL, addresses TEXT NOT NULL, started REAL NOT NULL, "
        "ended REAL, last_seen REAL NOT NULL, bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL, reason TEXT)"
    )
    connection.execute("CREATE INDEX sessions_started ON sessions (started)")
    connection.execute("CREATE INDEX sessions_last_seen ON sessions (last_seen)")
    connection.execute("CREATE INDEX sessions_name ON sessions (name, started)")


_COLUMNS: Final = (
    "id, server, name, serial, technology, peer, addresses, started, ended, last_seen, bytes_in, bytes_out, reason"
)


class SessionStore:
    """The store. May be used from several threads, one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, directory: Path) -> SessionStore:
        """Opens or makes it. Raises as `Database.open`."""
        return cls(Database.open(directory / NAME, [_create]))

    def close(self) -> None:
        self._database.close()

    def close_open(self) -> int:
        """Ends what a crash left open, at the time it was last seen; returns how many there were."""
        with self._database.transaction() as connection:
            done = connection.execute("UPDATE sessions SET ended = last_seen, reason = 'lost' WHERE ended IS NULL")
            return done.rowcount

    def write(self, sessions: Iterable[Session]) -> None:
        """Writes sessions as they are now, all or none; new ones get their `row`."""
        made: list[tuple[Session, int]] = []
        with self._database.transaction() as connection:
            for one in sessions:
                addresses = json.dumps(one.addresses)
                changing = (addresses, one.ended, one.last_seen, one.bytes_in, one.bytes_out, one.reason)
                if one.row is not None:
                    connection.execute(
                        "UPDATE sessions SET addresses = ?, ended = ?, last_seen = ?, bytes_in = ?, bytes_out = ?, "
                        "reason = ? WHERE id = ?",
                        (*changing, one.row),
                    )
                    continue
                cursor = connection.execute(
                    "INSERT INTO sessions (addresses, ended, last_seen, bytes_in, bytes_out, reason, server, name, "
                    "serial, technology, peer, started) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (*changing, one.server, one.name, one.serial, one.technology, one.peer, one.started),
                )
                assert cursor.lastrowid is not None
                made.append((one, cursor.lastrowid))
        for one, row in made:
            one.row = row

    def prune(self, before: float, *, maximum: int = MAXIMUM_ROWS) -> int:
        """Deletes sessions that ended before a time, and the oldest ended ones above a number of rows."""
        with self._database.transaction() as connection:
            gone = connection.execute(
                "DELETE FROM sessions WHERE ended IS NOT NULL AND last_seen < ?", (before,)
            ).rowcount
            (rows,) = connection.execute("SELECT count(*) FROM sessions").fetchone()
            if rows > maximum:
                gone += connection.execute(
                    "DELETE FROM sessions WHERE id IN "
                    "(SELECT id FROM sessions WHERE ended IS NOT NULL ORDER BY id LIMIT ?)",
                    (rows - maximum,),
                ).rowcount
            return gone

    def clear(self, start: float | None, end: float | None, *, dry_run: bool = False) -> int:
        """Deletes ended sessions that existed within a time; returns how many there are."""
        where, values = _within(start, end)
        with self._database.transaction() as connection:
            (count,) = connection.execute(
                f"SELECT count(*) FROM sessions WHERE ended IS NOT NULL AND {where}",  # noqa: S608 (fixed texts)
                values,
            ).fetchone()
            if not dry_run:
                connection.execute(
                    f"DELETE FROM sessions WHERE ended IS NOT NULL AND {where}",  # noqa: S608
                    values,
                )
            return int(count)

    def sessions(
        self,
        *,
        start: float | None = None,
        end: float | None = None,
        name: str | None = None,
        after: int | None = None,
        limit: int = 1000,
    ) -> tuple[list[dict[str, Any]], int | None]:
        """A page of the sessions that existed within a time, in the order in which they began to be written.

        Args:
            after: the `next` of the page before.

        Returns:
            The rows, and what to give as `after` for more; None at the end.
        """
        where, values = _within(start, end)
        limit = min(limit, MAXIMUM_PAGE)
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM sessions WHERE {where} AND id > ? AND (? IS NULL OR name = ?) "  # noqa: S608
                "ORDER BY id LIMIT ?",
                (*values, after or 0, name, name, limit),
            ).fetchall()
        names = _COLUMNS.split(", ")
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for item in found:
            item["addresses"] = json.loads(item["addresses"])
        return found, found[-1]["id"] if len(found) == limit else None

    def summary(self, start: float | None, end: float | None) -> dict[str, Any]:
        """Counts of the sessions that existed within a time; `days` is its length."""
        where, values = _within(start, end)
        with self._database.read() as connection:
            count, names, bytes_in, bytes_out, first, last = connection.execute(
                "SELECT count(*), count(DISTINCT name), coalesce(sum(bytes_in), 0), coalesce(sum(bytes_out), 0), "  # noqa: S608
                f"min(started), max(last_seen) FROM sessions WHERE {where}",
                values,
            ).fetchone()
            edges = connection.execute(
                f"SELECT started AS at, 1 AS step FROM sessions WHERE {where} "  # noqa: S608
                f"UNION ALL SELECT last_seen, -1 FROM sessions WHERE {where} ORDER BY at, step",
                (*values, *values),
            )
            most = now = 0
            for _, step in edges:
                now += step
                most = max(most, now)
        begin = start if start is not None else first
        finish = end if end is not None else last
        seconds = max(0.0, finish - begin) if begin is not None and finish is not None else 0.0
        return {
            "sessions": count,
            "most_at_once": most,
            "unique_names": names,
            "bytes_in": bytes_in,
            "bytes_out": bytes_out,
            "days": seconds / 86_400,
        }

    def status(self) -> dict[str, Any]:
        """Size, room left on the file system, first and last record, number of sessions."""
        path = self._database.path
        with self._database.read() as connection:
            count, first, last = connection.execute(
                "SELECT count(*), min(started), max(last_seen) FROM sessions"
            ).fetchone()
        used = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*") if "damaged" not in file.name)
        room = os.statvfs(path.parent)
        return {
            "used_bytes": used,
            "free_bytes": room.f_bavail * room.f_frsize,
            "first_record": first,
            "last_record": last,
            "sessions": count,
        }


def _within(start: float | None, end: float | None) -> tuple[str, list[float]]:
    """What existed within the time: begun before its end, seen after its start."""
    parts, values = ["1 = 1"], list[float]()
    if start is not None:
        parts.append("last_seen >= ?")
        values.append(start)
    if end is not None:
        parts.append("started <= ?")
        values.append(end)
    return " AND ".join(parts), values
