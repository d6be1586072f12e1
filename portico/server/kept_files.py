"""Files that the agent wrote, against what they are now: content, mode, owner. Blocking.

What is written is known because every write tells (`portico.files.watchers`); what was there before the agent started
is taken as it is, for its readers judge that. Databases and logs change all the time and check themselves: of them only
mode and owner are looked at.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portico.errors import PorticoError, Unavailable
from portico.files import changing, read_file, watchers, write_file
from portico.server.reconcile.wanted import Change

log = logging.getLogger("portico.server")

ROOMS: Final = ("", "certificates", "management", "cluster")
"""Directories of the state whose files the agent alone writes."""

KEPT_BYTES: Final = 1 << 20
"""A larger file is told to have changed, and nobody can put it back."""

MADE_NAME: Final = "installed.json"
MAXIMUM: Final = 1000
"""Files looked at."""

OF_THE_ROOT: Final = frozenset({"applied.yaml", "kernel.json", "cluster-name.json"})
"""Kept of the state's own directory. The rest there are notes that come and go: their mode and owner count."""

OTHERS: Final = frozenset({MADE_NAME})
"""Files in these directories that commands write too."""

_LARGEST: Final = 64 << 20
_LIVING: Final = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".jsonl", ".log", ".lock")


@dataclass
class _Kept:
    """A file or directory as it is to be.

    Attributes:
        digest: SHA-256 of the content; None for what changes all the time, and for directories.
        data: the content, when it is small enough to be put back.
        seen: what the kernel said about the file when it was right, so that it need not be read again.
    """

    mode: int
    digest: bytes | None = None
    data: bytes | None = None
    seen: tuple[int, ...] | None = None


class KeptFiles:
    """The files of one agent's state."""

    def __init__(self, state: Path) -> None:
        self._rooms = tuple(state / room for room in ROOMS)
        self._kept: dict[Path, _Kept] = {}
        self._adopted = False

    def open(self) -> None:
        """Hears of every write from now on."""
        with changing:
            watchers.append(self._told)

    def forget(self) -> None:
        """While nothing is in force other programs may write (install, join): `adopt` takes what is there then."""
        with changing:
            self._kept.clear()
            self._adopted = False

    def close(self) -> None:
        with changing:
            if self._told in watchers:
                watchers.remove(self._told)
            self._kept.clear()

    def adopt(self) -> None:
        """Takes what is there as it is to be, when `forget` was called since the last time."""
        with changing:
            if not self._adopted:
                for room in self._rooms:
                    self._adopt(room)
                self._adopted = True

    def look(self) -> list[Change]:
        """What differs, by name."""
        with changing:
            self.adopt()
            return [change for path, kept in self._kept.items() for change in self._differences(path, kept)]

    def repair(self) -> tuple[list[Change], PorticoError | None]:
        """Puts right what differs now; returns that, and what of it cannot be put right."""
        with changing:
            changes = self.look()
            failed = [text for path in dict.fromkeys(_path(change) for change in changes) if (text := self._put(path))]
        if not failed:
            return changes, None
        return changes, Unavailable(
            "Files of the server's state cannot be put back",
            why="; ".join(failed),
            resolution="Restore them from a backup (docs/backup.md), and look who changes them",
            code="FILES_CHANGED",
        )

    def _told(self, path: Path, content: tuple[bytes, int] | None) -> None:
        if content is None:
            for gone in [kept for kept in self._kept if kept == path or path in kept.parents]:
                del self._kept[gone]
        elif (
            path.parent in self._rooms and path.name not in OTHERS and (path in self._kept or len(self._kept) < MAXIMUM)
        ):
            data, mode = content
            self._kept[path] = _Kept(mode) if self._living(path) else _kept(data, mode)
            self._keep_directory(path.parent)

    def _adopt(self, room: Path) -> None:
        try:
            entries = sorted(room.iterdir())
            self._keep_directory(room)
        except OSError:
            return
        for path in entries:
            try:
                found = path.lstat()
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or path.name.startswith("."):
                    continue
                if path in self._kept or path.name in OTHERS:
                    continue
                mode = stat.S_IMODE(found.st_mode)
                kept = _Kept(mode) if self._living(path) else _kept(read_file(path, limit=_LARGEST), mode)
            except (OSError, PorticoError):
                continue  # whoever needs it says what is wrong with it
            if len(self._kept) < MAXIMUM:
                self._kept[path] = kept

    def _living(self, path: Path) -> bool:
        """Whether the content changes all the time."""
        if path.parent == self._rooms[0]:
            return path.name not in OF_THE_ROOT
        return path.name.endswith(_LIVING) or not path.name.endswith((".json", ".pem"))

    def _keep_directory(self, path: Path) -> None:
        if path not in self._kept:
            self._kept[path] = _Kept(stat.S_IMODE(path.lstat().st_mode))

    def _differences(self, path: Path, kept: _Kept) -> list[Change]:
        try:
            found = path.lstat()
        except FileNotFoundError:
            # A database that is gone is one that was set aside, or its owner says so.
            return [Change("files", "add", str(path), key=str(path))] if kept.digest is not None else []
        except OSError as error:
            return [Change("files", "set", f"{path} state", error.strerror, "readable", str(path))]
        changes = []
        if stat.S_IMODE(found.st_mode) != kept.mode:
            modes = f"{stat.S_IMODE(found.st_mode):04o}", f"{kept.mode:04o}"
            changes.append(Change("files", "set", f"{path} mode", *modes, str(path)))
        if found.st_uid != os.geteuid():
            changes.append(Change("files", "set", f"{path} owner", str(found.st_uid), str(os.geteuid()), str(path)))
        now = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)
        if kept.digest is not None and now != kept.seen:
            if _digest(path, found) == kept.digest:
                kept.seen = now
            else:
                words = "another content", "as Portico wrote it"
                changes.append(Change("files", "set", f"{path} content", *words, str(path)))
        return changes

    def _put(self, path: Path) -> str:
        """What could not be done, empty when it was."""
        kept = self._kept[path]
        try:
            if kept.digest is not None and (not path.is_file() or _digest(path, path.lstat()) != kept.digest):
                if kept.data is None:
                    return f"{path}: it is too large to be kept"
                write_file(path, kept.data, mode=kept.mode)
                return ""
            os.chown(path, os.geteuid(), -1, follow_symlinks=False)
            path.chmod(kept.mode)
        except PorticoError as error:
            return str(error)
        except OSError as error:
            return f"{path}: {error.strerror}"
        return ""


def _kept(data: bytes, mode: int) -> _Kept:
    return _Kept(mode, hashlib.sha256(data).digest(), data if len(data) <= KEPT_BYTES else None)


def _digest(path: Path, found: os.stat_result) -> bytes | None:
    """Of the content; None for what is no file that could be read."""
    if not stat.S_ISREG(found.st_mode):
        return None
    try:
        return hashlib.sha256(read_file(path, limit=_LARGEST)).digest()
    except PorticoError:
        return None


def _path(change: Change) -> Path:
    assert isinstance(change.key, str)
    return Path(change.key)
