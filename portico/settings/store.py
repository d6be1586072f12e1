"""Revisions of the settings in SQLite, and beside them the last applied one as a file.

The database answers who decided what and when; the file `applied.yaml` is what the server starts from. When the
database is damaged the store opens read-only on the applied document: the service goes on, only changes are refused.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from portico.errors import Conflict, InvalidInput, NotFound, PorticoError, Unavailable
from portico.files import not_written, read_file, write_file
from portico.settings.database import Database, corrupt, set_aside
from portico.settings.diff import Difference, compare
from portico.settings.document import MAXIMUM_SIZE, dump, load
from portico.settings.model import Settings

if TYPE_CHECKING:
    from portico.settings.stores import Decider

DATABASE_NAME = "settings.sqlite"
APPLIED_NAME = "applied.yaml"
MAXIMUM_COMMENT = 1000

_HEADER = "# portico applied settings: "


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        """CREATE TABLE revision (
            number INTEGER PRIMARY KEY CHECK (number > 0),
            author TEXT NOT NULL,
            comment TEXT NOT NULL,
            created TEXT NOT NULL,
            document TEXT NOT NULL,
            sha256 TEXT NOT NULL
        ) STRICT"""
    )


MIGRATIONS = (_create,)


@dataclass(frozen=True)
class Revision:
    """One stored document. Numbers start at 1 and have no gaps; `created` is in UTC."""

    number: int
    author: str
    comment: str
    created: datetime
    sha256: str
    text: str

    @property
    def settings(self) -> Settings:
        """The document, migrated to the current schema; raises SettingsRefused when its text is no longer usable."""
        return _parsed(self.text, self.number).model_copy(deep=True)

    def as_dict(self) -> dict[str, Any]:
        """The revision without its text."""
        return {
            "number": self.number,
            "author": self.author,
            "comment": self.comment,
            "created": self.created.isoformat(),
            "sha256": self.sha256,
        }


@lru_cache(maxsize=8)
def _parsed(text: str, number: int) -> Settings:
    """The newest document is asked for by every greeting of every other server; reading one takes milliseconds."""
    return load(text, source=f"settings revision {number}")


class SettingsStore:
    """The settings of one server in one directory (mode 0700, files 0600).

    Attributes:
        damage: why the store is read-only, None while it is sound.
        decider: says who decides which revision comes next; None (or its None): this database alone.
    """

    decider: Callable[[], Decider | None] | None = None

    def __init__(self, directory: Path, database: Database | None, damage: PorticoError | None) -> None:
        self.directory = directory
        self.damage = damage
        self._database = database

    @classmethod
    def open(cls, directory: Path) -> SettingsStore:
        """Opens or creates the store.

        A database that is damaged, unavailable, gone or older than the applied document gives a read-only store, as
        long as that document is there.

        Raises:
            PorticoError: the database cannot be used and there is no usable applied document either.
        """
        applied = cls(directory, None, None).applied()
        try:
            if applied is not None:
                _require_content(directory / DATABASE_NAME)
            database = Database.open(directory / DATABASE_NAME, MIGRATIONS)
        except PorticoError as error:
            if applied is None:
                raise
            return cls(directory, None, error)
        store = cls(directory, database, None)
        try:
            lost = applied is not None and store._newest_number() < applied.number
        except PorticoError as error:
            if applied is None:
                raise
            store.close()
            return cls(directory, None, error)
        if lost:
            store.close()
            return cls(directory, None, corrupt(directory / DATABASE_NAME, "it lacks the revision that is in force"))
        return store

    @property
    def read_only(self) -> bool:
        return self._database is None

    def latest(self) -> Revision | None:
        """The newest revision, None before the first; the applied one while the store is read-only."""
        if self._database is None:
            return self.applied()
        with self._database.read() as connection:
            row = connection.execute("SELECT * FROM revision ORDER BY number DESC LIMIT 1").fetchone()
        return None if row is None else self._revision(row)

    def get(self, number: int) -> Revision:
        """Raises NotFound when there is no such revision, InvalidInput (REVISION_DAMAGED) when its text changed."""
        if self._database is None:
            applied = self.applied()
            if applied is not None and applied.number == number:
                return applied
            raise self._refusal(f"cannot show revision {number}")
        with self._database.read() as connection:
            row = connection.execute("SELECT * FROM revision WHERE number = ?", (_bounded(number),)).fetchone()
        if row is None:
            raise NotFound(
                f"there is no settings revision {number}",
                resolution="List them with: portico settings history",
                code="REVISION_NOT_FOUND",
            )
        return self._revision(row)

    def history(self, *, limit: int = 50, before: int | None = None) -> list[Revision]:
        """At most `limit` revisions, newest first, older than `before` when given."""
        if self._database is None:
            applied = self.applied()
            return [applied] if applied is not None else []
        below = _bounded(before) if before is not None else 2**62
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT * FROM revision WHERE number < ? ORDER BY number DESC LIMIT ?",
                (below, max(0, min(limit, 1000))),
            ).fetchall()
        return [self._revision(row) for row in rows]

    def commit(self, settings: Settings, *, expected: int, author: str, comment: str = "", now: datetime) -> Revision:
        """Stores a document as the next revision if `expected` (0: none) is still the newest.

        The caller has verified it. A document equal to the newest one makes no revision; the newest is returned.

        Raises:
            Conflict: code SETTINGS_CHANGED; `difference` holds what the others changed since `expected`.
            Unavailable: code STORE_READ_ONLY.
        """
        if self._database is None:
            raise self._refusal("cannot store settings")
        text = dump(settings)
        decider = self.decider() if self.decider is not None else None
        if decider is not None:
            return self._commit_decided(decider, text, expected, author, comment, now)
        with self._database.transaction() as connection:
            row = connection.execute("SELECT * FROM revision ORDER BY number DESC LIMIT 1").fetchone()
            newest = None if row is None else self._revision(row)
            number = newest.number if newest is not None else 0
            if number != expected:
                raise changed_since(self, expected, newest)
            if newest is not None and newest.text == text:
                return newest
            revision = next_revision(newest, text, author=author, comment=comment, now=now)
            connection.execute(
                "INSERT INTO revision (number, author, comment, created, document, sha256) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    revision.number,
                    revision.author,
                    revision.comment,
                    revision.created.isoformat(),
                    revision.text,
                    revision.sha256,
                ),
            )
        return revision

    def _commit_decided(
        self, decider: Decider, text: str, expected: int, author: str, comment: str, now: datetime
    ) -> Revision:
        """The same where others have a say. What they decided instead is stored here, and told."""
        newest = self.latest()
        if (newest.number if newest is not None else 0) != expected:
            raise changed_since(self, expected, newest)
        if newest is not None and newest.text == text:
            return newest
        revision = next_revision(newest, text, author=author, comment=comment, now=now)
        others = decider.decide(newest, revision)
        if others:
            self.adopt(others)
            raise changed_since(self, expected, others[-1])
        return self.adopt([revision])

    def restore(self, number: int, *, expected: int, author: str, comment: str = "", now: datetime) -> Revision:
        """Stores the document of an earlier revision as a new one. Raises as `get` and `commit`."""
        settings = self.get(number).settings
        text = comment or f"restored revision {number}"
        return self.commit(settings, expected=expected, author=author, comment=text, now=now)

    def after(self, number: int, *, limit: int = 100) -> list[Revision]:
        """At most `limit` revisions newer than a number, oldest first."""
        if self._database is None:
            return [revision for revision in self.history() if revision.number > number]
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT * FROM revision WHERE number > ? ORDER BY number LIMIT ?",
                (_bounded(number), max(0, min(limit, 1000))),
            ).fetchall()
        return [self._revision(row) for row in rows]

    def adopt(self, revisions: Sequence[Revision]) -> Revision:
        """Stores revisions as another server numbered them; own ones from the first number on give way to them.

        Args:
            revisions: at least one, in order and without gaps, continuing what is here.

        Returns:
            The newest of them; when all of them are here already, the newest that is here.

        Raises:
            Conflict: code REVISION_GAP; there is a gap between what is here and the first.
            InvalidInput: code REVISION_DAMAGED; a text does not match its checksum.
            Unavailable: code STORE_READ_ONLY.
        """
        if self._database is None:
            raise self._refusal("cannot store settings")
        first = revisions[0].number
        for index, revision in enumerate(revisions):
            if revision.number != first + index or digest(revision.text) != revision.sha256:
                raise InvalidInput(
                    f"settings revision {revision.number} of another server cannot be used",
                    why="its text does not match its checksum, or it is out of order",
                    resolution="Nothing was stored; it is asked for again",
                    code="REVISION_DAMAGED",
                )
        with self._database.transaction() as connection:
            newest = connection.execute("SELECT coalesce(max(number), 0) FROM revision").fetchone()[0]
            known = connection.execute("SELECT sha256 FROM revision WHERE number >= ? ORDER BY number", (first,))
            if newest > revisions[-1].number and [row[0] for row in known][: len(revisions)] == [
                revision.sha256 for revision in revisions
            ]:
                # Somebody told of them while newer ones were stored: those hold.
                row = connection.execute("SELECT * FROM revision WHERE number = ?", (newest,)).fetchone()
                return self._revision(row)
            if newest and first > newest + 1:
                raise Conflict(
                    "revisions of another server do not continue those that are here",
                    why=f"the newest here is {newest}, the first there is {first}",
                    code="REVISION_GAP",
                )
            connection.execute("DELETE FROM revision WHERE number >= ?", (first,))
            connection.executemany(
                "INSERT INTO revision (number, author, comment, created, document, sha256) VALUES (?, ?, ?, ?, ?, ?)",
                [(r.number, r.author, r.comment, r.created.isoformat(), r.text, r.sha256) for r in revisions],
            )
        return revisions[-1]

    def compact(self, keep: int = 1000) -> int:
        """Deletes all but the newest revisions; returns how many. Raises Unavailable (STORE_READ_ONLY)."""
        if self._database is None:
            raise self._refusal("cannot delete revisions")
        with self._database.transaction() as connection:
            newest = connection.execute("SELECT coalesce(max(number), 0) FROM revision").fetchone()[0]
            done = connection.execute("DELETE FROM revision WHERE number <= ?", (newest - max(1, keep),))
            return done.rowcount

    def compare(self, before: int, after: int) -> Difference:
        """What differs from revision `before` (0: nothing configured) to revision `after`."""
        return compare(self.get(before).settings if before else None, self.get(after).settings)

    def mark_applied(self, revision: Revision) -> None:
        """Writes the file the next start serves from, atomically.

        Raises:
            Unavailable: code FILE_NOT_WRITTEN; the file before it is still there.
        """
        head = json.dumps({**revision.as_dict(), "size": len(revision.text.encode())}, sort_keys=True)
        write_file(self.directory / APPLIED_NAME, f"{_HEADER}{head}\n{revision.text}".encode())

    def applied(self) -> Revision | None:
        """The revision that was applied last; None when there is none or its file cannot be trusted.

        `applied_problem` says which.
        """
        try:
            return self._read_applied()
        except PorticoError:
            return None

    def applied_problem(self) -> PorticoError | None:
        """Why the applied document cannot be used: missing, empty, truncated, altered, not readable."""
        try:
            self._read_applied()
        except PorticoError as error:
            return error
        return None

    def repair(self, now: datetime) -> Path | None:
        """Puts a damaged database aside and starts a new one from the applied document, keeping its number.

        Returns:
            The damaged file's new name; None when the store was sound.

        Raises:
            PorticoError: the applied document cannot be used, or nothing can be written; nothing was changed then.
        """
        if self._database is not None:
            return None
        revision = self._read_applied()
        path = self.directory / DATABASE_NAME
        aside = set_aside(path, now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ"))
        database = Database.open(path, MIGRATIONS)
        with database.transaction() as connection:
            connection.execute(
                "INSERT INTO revision (number, author, comment, created, document, sha256) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    revision.number,
                    revision.author,
                    revision.comment,
                    revision.created.isoformat(),
                    revision.text,
                    revision.sha256,
                ),
            )
        self._database, self.damage = database, None
        return aside

    def close(self) -> None:
        if self._database is not None:
            self._database.close()

    def _newest_number(self) -> int:
        assert self._database is not None
        with self._database.read() as connection:
            return int(connection.execute("SELECT coalesce(max(number), 0) FROM revision").fetchone()[0])

    def _read_applied(self) -> Revision:
        path = self.directory / APPLIED_NAME
        data = read_file(path, limit=2 * MAXIMUM_SIZE)
        try:
            head, _, text = data.decode().partition("\n")
            if not head.startswith(_HEADER):
                raise ValueError("its first line is not the one Portico writes")
            fields = json.loads(head.removeprefix(_HEADER))
            revision = Revision(
                number=int(fields["number"]),
                author=str(fields["author"]),
                comment=str(fields["comment"]),
                created=datetime.fromisoformat(fields["created"]),
                sha256=str(fields["sha256"]),
                text=text,
            )
            if digest(text) != revision.sha256:
                raise ValueError("its content does not match its checksum (truncated or edited)")
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise InvalidInput(
                f"{path} cannot be used",
                why=str(error) if isinstance(error, ValueError) else f"its first line lacks {error}",
                resolution="Apply the settings again with: portico settings apply",
                code="APPLIED_DAMAGED",
            ) from None
        _ = revision.settings  # a document of a schema we cannot read is no last good state
        return revision

    def _revision(self, row: tuple[Any, ...]) -> Revision:
        number, author, comment, created, document, sha256 = row
        try:
            time = datetime.fromisoformat(created)
        except ValueError:
            time = None
        if digest(document) != sha256 or time is None:
            raise InvalidInput(
                f"settings revision {number} in {self.directory / DATABASE_NAME} is damaged",
                why="its text or time is not what was stored",
                resolution="Restore another one: portico settings history; portico settings rollback NUMBER",
                code="REVISION_DAMAGED",
            )
        return Revision(number, author, comment, time, sha256, document)

    def _refusal(self, what: str) -> Unavailable:
        why = str(self.damage) if self.damage is not None else "the store is closed"
        return Unavailable(
            what,
            why=f"settings are read-only, because {why}",
            resolution=f"Put a good {self.directory / DATABASE_NAME} in place, or run: portico settings repair",
            code="STORE_READ_ONLY",
        )


class SettingsChanged(Conflict):
    """Somebody stored a revision first.

    Attributes:
        newest: the revision that is there now, None when there is none.
        difference: from the expected revision to the newest, None when the expected one does not exist.
    """

    code = "SETTINGS_CHANGED"

    def __init__(self, expected: int, newest: Revision | None, difference: Difference | None) -> None:
        self.newest = newest
        self.difference = difference
        if newest is None:
            why = "there is no revision yet"
        else:
            why = f"revision {newest.number} was stored by {newest.author} at {newest.created.isoformat()}"
        super().__init__(
            f"the settings are no longer at revision {expected}",
            why=why,
            resolution="Look at the difference, make your change on the newest revision and apply it again",
        )

    def as_dict(self) -> dict[str, Any]:
        difference = self.difference.as_dict() if self.difference is not None else None
        newest = self.newest.as_dict() if self.newest is not None else None
        return {**super().as_dict(), "newest": newest, "difference": difference}


class _Readable(Protocol):
    def get(self, number: int) -> Revision: ...


def changed_since(store: _Readable, expected: int, newest: Revision | None) -> SettingsChanged:
    """The error for a change that was made on a revision which is not the newest any more, with the difference."""
    difference: Difference | None = None
    if newest is not None:
        try:
            base = store.get(expected).settings if expected else None
            difference = compare(base, newest.settings)
        except PorticoError:
            difference = None  # the base is gone; the conflict itself is what counts
    return SettingsChanged(expected, newest, difference)


def next_revision(newest: Revision | None, text: str, *, author: str, comment: str, now: datetime) -> Revision:
    """The revision that a document makes after the newest one. Pure."""
    return Revision(
        number=newest.number + 1 if newest is not None else 1,
        author=_line(author) or "unknown",
        comment=_line(comment),
        created=now.astimezone(UTC),
        sha256=digest(text),
        text=text,
    )


def _require_content(path: Path) -> None:
    """A database that is gone or empty although settings were applied lost its revisions; a new one would hide it."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise corrupt(path, "it is missing, although settings were applied") from None
    except OSError as error:
        raise not_written(path, error) from None
    if size == 0:
        raise corrupt(path, "it is empty, although settings were applied")


def digest(text: str) -> str:
    """SHA-256 of a document as lower-case hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _line(text: str) -> str:
    """Text that stays on one line of a table and of the applied file's header."""
    return " ".join(text.split())[:MAXIMUM_COMMENT]


def _bounded(number: int) -> int:
    return max(0, min(number, 2**62))
