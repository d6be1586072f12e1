"""The log of changes of health: appended to, never edited, bounded by forgetting the oldest."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from portico.errors import PorticoError
from portico.health.components import Component
from portico.health.memory import HealthEvent
from portico.settings.database import Database, set_aside

log = logging.getLogger("portico.health")

NAME = "health.sqlite"
KEPT = 10_000
"""Events; with their texts at most some ten megabytes."""
MAXIMUM_PAGE = 1000


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE event (number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, server TEXT NOT NULL, "
        "component TEXT NOT NULL, data TEXT NOT NULL)"
    )
    connection.execute("CREATE INDEX event_at ON event (at)")
    connection.execute(
        "CREATE TRIGGER event_unchanged BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'events are not edited'); END"
    )


class EventLog:
    """Numbered events. Blocking.

    Attributes:
        problem: why the last events could not be written; None while all is well.
        lost: events that could not be written since the start.
    """

    def __init__(self, state: Path, kept: int = KEPT) -> None:
        self.path = state / NAME
        self.problem: PorticoError | None = None
        self.lost = 0
        self._kept = kept
        self._database: Database | None = None

    def append(self, events: Sequence[HealthEvent]) -> None:
        """Writes events as they come. Never fails; see `problem`."""
        if not events:
            return
        try:
            with self._open().transaction() as connection:
                connection.executemany(
                    "INSERT INTO event (at, server, component, data) VALUES (?, ?, ?, ?)",
                    [(e.at, e.server, e.component.value, e.model_dump_json()) for e in events],
                )
                (newest,) = connection.execute("SELECT max(number) FROM event").fetchone()
                connection.execute("DELETE FROM event WHERE number <= ?", (newest - self._kept,))
        except PorticoError as error:
            self.lost += len(events)
            if str(error) != str(self.problem):
                log.error("events=%d are lost: %s", len(events), error)
            self.problem = error
            self.close()
            return
        self.problem = None

    def page(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        since: float | None = None,
        server: str | None = None,
        component: Component | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Events, oldest first: the first ones after a number, otherwise the last ones (before a number).

        Returns:
            `{"events": [{"number": ..., ...}], "oldest": number of the oldest there is or None, "more": whether there
            are others on the side that was paged to}`.

        Raises:
            PorticoError: the log cannot be read.
        """
        conditions, values = ["1"], list[object]()
        for text, value in (
            ("number > ?", after),
            ("number < ?", before),
            ("at >= ?", since),
            ("server = ?", server),
            ("component = ?", component.value if component is not None else None),
        ):
            if value is not None:
                conditions.append(text)
                values.append(value)
        order = "ASC" if after is not None else "DESC"
        query = f"SELECT number, data FROM event WHERE {' AND '.join(conditions)} ORDER BY number {order} LIMIT ?"  # noqa: S608
        limit = min(limit, MAXIMUM_PAGE)
        with self._open().read() as connection:
            rows = connection.execute(query, (*values, limit + 1)).fetchall()
            (oldest,) = connection.execute("SELECT min(number) FROM event").fetchone()
        found = [{"number": number, **json.loads(data)} for number, data in rows[:limit]]
        if after is None:
            found.reverse()
        return {"events": found, "oldest": oldest, "more": len(rows) > limit}

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> Database:
        if self._database is None:
            try:
                self._database = Database.open(self.path, (_create,))
            except PorticoError as error:
                if error.code != "DATABASE_CORRUPT":
                    raise
                # What happened is worth less than what happens: the damaged one is kept for a look.
                stamp = str(int(self.path.stat().st_mtime))
                log.error("file=%s is set aside as %s: %s", self.path, set_aside(self.path, stamp), error)
                self._database = Database.open(self.path, (_create,))
        return self._database
