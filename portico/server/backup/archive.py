"""What a backup holds, inside the encryption: a manifest, then the files one after the other. Nothing is compressed.

4   length of the manifest, big-endian, at most 1 MiB
..  the manifest, JSON: format, created, portico, server, revision, files as [path, size, SHA-256]
..  the files' bytes in the manifest's order, nothing after them
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from portico import __version__
from portico.administration.access import DIRECTORY as MANAGEMENT
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.files import not_written
from portico.server.cluster_secrets import DIRECTORY as CLUSTER
from portico.server.credentials import DIRECTORY as CERTIFICATES
from portico.server.machine import NAME_FILE
from portico.server.peers.farewell import LEAVING_NAME
from portico.settings.store import APPLIED_NAME, DATABASE_NAME, SettingsStore

FORMAT = 1
MAXIMUM_MANIFEST = 1 << 20
MAXIMUM_FILES = 1000
MAXIMUM_SIZE = 64 << 30
ACCOUNTING = "accounting"
_FILES = (NAME_FILE, APPLIED_NAME, DATABASE_NAME)
"""In this order: the database has the revision that was applied a moment before."""
_PASSING = frozenset({(CLUSTER, LEAVING_NAME)})
"""What a process has still to do; another machine, or another day, has nothing to do with it."""
_PATH = re.compile(r"(?:(certificates|cluster|management|accounting)/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_PIECE = 64 << 10


@dataclass(frozen=True)
class Entry:
    """A file: its path below the state directory, its size in bytes, its SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is in a backup. `created` is ISO 8601; `revision` the newest; `server` None outside clusters."""

    created: str
    portico: str
    server: str | None
    revision: int
    files: tuple[Entry, ...]

    def as_dict(self) -> dict[str, Any]:
        files = [[entry.path, entry.size, entry.sha256] for entry in self.files]
        return {
            "format": FORMAT, "created": self.created, "portico": self.portico, "server": self.server,
            "revision": self.revision, "files": files,
        }  # fmt: skip


@contextlib.contextmanager
def snapshot(state: Path, *, server: str | None, now: datetime, accounting: bool) -> Iterator[tuple[Manifest, Path]]:
    """Copies of everything, in a directory (0700, beside the state) that is gone after the block.

    Raises:
        NotFound: code NOT_INSTALLED; there are no settings.
        PorticoError: a database is damaged, or a file cannot be read or copied.
    """
    if not (state / DATABASE_NAME).exists():
        raise NotFound(
            "There is nothing to back up", why=f"there are no settings in {state}",
            resolution="Install the server first: portico server install", code="NOT_INSTALLED",
        )  # fmt: skip
    directories = [CERTIFICATES, CLUSTER, MANAGEMENT, *([ACCOUNTING] if accounting else [])]
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=state.parent) as name:
            copy = Path(name)
            # The settings last: a certificate that they do not know yet does no harm, the other way round it would.
            for directory in directories:
                if (state / directory).is_dir():
                    (copy / directory).mkdir(mode=0o700)
                    for path in sorted((state / directory).iterdir()):
                        if (directory, path.name) in _PASSING:
                            continue
                        _copy(path, copy / directory / path.name)
            for path in (state / file for file in _FILES):
                if path.exists():
                    _copy(path, copy / path.name)
            store = SettingsStore.open(copy)
            newest = store.latest()
            store.close()
            paths = sorted(path for path in copy.rglob("*") if path.is_file() and not _beside(path.name))
            files = tuple(Entry(str(p.relative_to(copy)), p.stat().st_size, _digest(p)) for p in paths)
            revision = newest.number if newest is not None else 0
            yield Manifest(now.isoformat(), __version__, server, revision, files), copy
    except (OSError, sqlite3.Error) as error:
        raise not_written(state.parent, error) from None


def written(manifest: Manifest, copy: Path, progress: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """The archive's bytes. `progress` is told how many bytes of files were read so far."""
    head = json.dumps(manifest.as_dict()).encode()
    yield len(head).to_bytes(4, "big") + head
    done = 0
    for entry in manifest.files:
        with (copy / entry.path).open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
                done += len(piece)
                progress(done)


def read(pieces: Iterable[bytes], into: Path | None) -> Manifest:
    """Reads an archive to its end and checks everything; writes the files below a directory (0600) when given.

    Raises:
        InvalidInput: code BACKUP_DAMAGED; what was written until then must not be used.
    """
    source = _Source(pieces)
    length = int.from_bytes(source.take(4), "big")
    if length > MAXIMUM_MANIFEST:
        raise _damaged("its list of contents is too long")
    manifest = parse(source.take(length))
    for entry in manifest.files:
        digest, left = hashlib.sha256(), entry.size
        with contextlib.ExitStack() as stack:
            file = None
            if into is not None:
                path = into / entry.path
                path.parent.mkdir(mode=0o700, exist_ok=True)
                file = stack.enter_context(os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"))
            while left:
                piece = source.take(min(left, _PIECE))
                left -= len(piece)
                digest.update(piece)
                if file is not None:
                    file.write(piece)
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
        if digest.hexdigest() != entry.sha256:
            raise _damaged(f"{entry.path} does not match its digest")
    source.end()
    return manifest


def parse(data: bytes) -> Manifest:
    """The manifest. Raises InvalidInput (BACKUP_DAMAGED, BACKUP_FORMAT)."""
    try:
        found = json.loads(data)
        if found["format"] != FORMAT:
            raise InvalidInput(
                "This backup cannot be read", why=f"its contents have format {found['format']!r}",
                resolution="Use the version of Portico that wrote it, or a newer one", code="BACKUP_FORMAT",
            )  # fmt: skip
        files = tuple(Entry(path, size, digest) for path, size, digest in found["files"])
        manifest = Manifest(found["created"], found["portico"], found["server"], found["revision"], files)
        paths = [entry.path for entry in files]
        sound = (
            len(files) <= MAXIMUM_FILES
            and len({*paths}) == len(paths)
            and DATABASE_NAME in paths
            and all(_PATH.fullmatch(path) for path in paths)
            and all(type(entry.size) is int and entry.size >= 0 for entry in files)
            and sum(entry.size for entry in files) <= MAXIMUM_SIZE
            and type(manifest.revision) is int
            and isinstance(manifest.server, str | None)
            and all(isinstance(text, str) for text in (manifest.created, manifest.portico))
        )
    except PorticoError:
        raise
    except (ValueError, LookupError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise _damaged("its list of contents is none")
    return manifest


class _Source:
    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._held = bytearray()

    def take(self, count: int) -> bytes:
        while len(self._held) < count:
            try:
                self._held += next(self._pieces)
            except StopIteration:
                raise _damaged("it ends too early") from None
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def end(self) -> None:
        if self._held or any(self._pieces):
            raise _damaged("something follows its last file")


def _beside(name: str) -> bool:
    """Files that are part of a database's write-ahead log, copies of migrations, or half-written."""
    return name.startswith(".") or name.endswith(("-wal", "-shm", "-journal")) or not _PATH.fullmatch(name)


def _copy(path: Path, target: Path) -> None:
    if not path.is_file() or path.is_symlink() or _beside(path.name):
        return
    if path.suffix == ".sqlite":
        # SQLite's own backup: a copy of the file could be half of somebody's transaction.
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source:  # noqa: SIM117
            with contextlib.closing(sqlite3.connect(target)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                found = copy.execute("PRAGMA integrity_check").fetchone()[0]
        target.chmod(0o600)
        if found != "ok":
            raise InvalidInput(
                f"{path} is damaged", why=str(found)[:200], code="DATABASE_CORRUPT",
                resolution="Repair it first: portico settings repair, portico ca repair",
            )  # fmt: skip
        return
    # Every other file is replaced as a whole whenever it changes, so one descriptor sees one state of it.
    with path.open("rb") as source_file, target.open("xb") as target_file:
        while piece := source_file.read(_PIECE):
            target_file.write(piece)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(why: str) -> InvalidInput:
    return InvalidInput(
        "The backup is damaged",
        why=why,
        resolution="Use another copy of it; nothing was changed",
        code="BACKUP_DAMAGED",
    )
