"""One way to open a SQLite file of state: durable, checked, migrated after a copy, with errors that name it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from portico.errors import Conflict, InvalidInput, PorticoError, Unavailable
from portico.files import not_written, private_directory

Migration = Callable[[sqlite3.Connection], None]

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process's transaction."""


class Database:
    """A SQLite file with a schema version in `user_version`.

    Connections may be used from several threads; one transaction runs at a time.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path, migrations: Sequence[Migration]) -> Database:
        """Opens or creates the file and brings it to schema version `len(migrations)`.

        Before a migration of an existing file a copy `<name>.v<version>` is kept beside it.

        Raises:
            InvalidInput: code DATABASE_CORRUPT (not a database, damaged, truncated), DATABASE_NEWER.
            Unavailable: it cannot be opened or written.
        """
        private_directory(path.parent)
        connection: sqlite3.Connection | None = None
        try:
            existed = path.exists() and path.stat().st_size > 0
            if path.exists() and not path.is_file():
                raise corrupt(path, "it is not a regular file")
            # The file appears with mode 0600 before SQLite writes to it; SQLite gives its journal the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            _check(path, connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(path, connection, migrations, existed=existed)
        except (OSError, ValueError) as error:
            _close(connection)
            raise not_written(path, error) from None
        except sqlite3.Error as error:
            _close(connection)
            raise explain(path, error) from None
        except PorticoError:
            _close(connection)
            raise
        return cls(path, connection)

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection for queries; SQLite's errors come out as PorticoError."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise explain(self.path, error) from None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: everything inside is stored, or nothing when an exception leaves it."""
        with self.read() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            _close(self._connection)


def set_aside(path: Path, stamp: str) -> Path:
    """Renames a damaged database (and its journal) to `<name>.damaged-<stamp>` and returns the new name.

    Raises:
        Unavailable: code FILE_NOT_WRITTEN.
    """
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    try:
        for suffix in ("", "-wal", "-shm"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.replace(target.with_name(target.name + suffix))
    except OSError as error:
        raise not_written(path, error) from None
    return target


def explain(path: Path, error: sqlite3.Error) -> PorticoError:
    """The error of SQLite as one of ours, naming the file."""
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return Conflict(
            f"{path} is in use",
            why=f"another process has held it for more than {BUSY_TIMEOUT:g} seconds",
            resolution="Try again",
            code="DATABASE_BUSY",
        )
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return corrupt(path, str(error))
    return Unavailable(
        f"cannot use {path}",
        why=str(error),
        resolution=f"Check free space and permissions: df {path.parent}; ls -l {path.parent}",
        code="DATABASE_UNAVAILABLE",
    )


def corrupt(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is damaged",
        why=why,
        resolution="Restore it from a backup; the service goes on with what it applied last",
        code="DATABASE_CORRUPT",
    )


def _check(path: Path, connection: sqlite3.Connection) -> None:
    findings = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    if findings != ["ok"]:
        raise corrupt(path, "; ".join(findings))


def _migrate(path: Path, connection: sqlite3.Connection, migrations: Sequence[Migration], *, existed: bool) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(migrations):
        raise InvalidInput(
            f"{path} was written by a newer Portico",
            why=f"its schema version is {version}, this program's is {len(migrations)}",
            resolution="Upgrade Portico on this machine",
            code="DATABASE_NEWER",
        )
    if version == len(migrations):
        return
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version == 0 and tables:
        raise corrupt(path, "it holds tables but no schema version, so it is not one of Portico's")
    if existed and version:
        _copy(connection, path.with_name(f"{path.name}.v{version}"))
    for number in range(version, len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Two processes may open a new file at once; the second one finds the work done.
            if int(connection.execute("PRAGMA user_version").fetchone()[0]) == number:
                migrations[number](connection)
                connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _copy(connection: sqlite3.Connection, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
