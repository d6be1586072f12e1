"""The files of the binding log: one a UTC day, another when one has grown large, deleted when they are old. Blocking.

Nothing here may stop the service: what cannot be written is counted, and the log says later how much is missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from portico.accounting import records

FILE_LIMIT: Final = 128 << 20
"""Bytes after which a day gets another file."""

KEPT_FREE: Final = 64 << 20
"""Bytes the log leaves free on its file system for everything else."""

_NAME = re.compile(r"nat64-bindings-(\d{4}-\d{2}-\d{2})(?:\.(\d{1,6}))?\.jsonl", flags=re.ASCII)


@dataclass(frozen=True, order=True)
class LogFile:
    """A file of the log: its day, its number within the day (from 0), and where it is."""

    day: date
    number: int
    path: Path


def files(directory: Path) -> list[LogFile]:
    """The files of the log, oldest first; none when there is no such directory.

    Raises:
        OSError: the directory cannot be read.
    """
    found = []
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:
        return []
    for path in entries:
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        with contextlib.suppress(ValueError):  # 2026-13-01 is no day of ours
            found.append(LogFile(date.fromisoformat(match[1]), int(match[2] or 0), path))
    return sorted(found)


class BindingLog:
    """Appends to the log. One thread at a time; only `lose` may be called beside.

    Attributes:
        written: lines written since the start.
        lost: rows that could not be written, or that did not reach this log, since the start.
        trouble: why the last lines could not be written; None while all is well.
    """

    def __init__(
        self,
        directory: Path,
        *,
        file_limit: int = FILE_LIMIT,
        kept_free: int = KEPT_FREE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.written = 0
        self.lost = 0
        self.trouble: str | None = None
        self._file_limit = file_limit
        self._kept_free = kept_free
        self._clock = clock
        self._file: LogFile | None = None
        self._descriptor = -1
        self._lock = threading.Lock()
        self._missing: dict[str, int] = {}
        """Rows that are missing since the last line that was written, by reason."""

    def append(self, lines: Iterable[bytes]) -> bool:
        """Writes whole lines, after a mark for what was lost before; False when they are lost too."""
        rows = list(lines)
        with self._lock:
            missing, self._missing = self._missing, {}
        marks = [records.mark("lost", self._clock(), rows=count, why=why) for why, count in sorted(missing.items())]
        data = b"".join([*marks, *rows])
        if not data:
            return True
        try:
            self._open(len(data))
            self._write(data)
        except OSError as error:
            self.trouble = _reason(error)
            self.close()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self.lose(len(rows), "the disk is full" if full else self.trouble)
            with self._lock:
                for why, count in missing.items():
                    self._missing[why] = self._missing.get(why, 0) + count
            return False
        self.trouble = None
        self.written += len(rows)
        return True

    def lose(self, count: int, why: str) -> None:
        """Notes rows that never came or could not be written; the next line that is written says so."""
        if count > 0:
            with self._lock:
                self.lost += count
                self._missing[why] = self._missing.get(why, 0) + count

    def prune(self, days: int) -> list[Path]:
        """Deletes files whose day ended more than so many days ago, and returns them.

        Raises:
            OSError: one cannot be deleted.
        """
        oldest = self._today() - timedelta(days=days)
        gone = []
        for file in files(self.directory):
            if file.day < oldest:
                file.path.unlink(missing_ok=True)
                gone.append(file.path)
        return gone

    def size(self) -> int:
        """Bytes of all files."""
        total = 0
        with contextlib.suppress(OSError):
            for file in files(self.directory):
                total += file.path.stat().st_size
        return total

    def status(self) -> dict[str, Any]:
        """What `portico nat64 stats` shows of the log."""
        return {
            "directory": str(self.directory),
            "bytes": self.size(),
            "written": self.written,
            "lost": self.lost,
            "trouble": self.trouble,
        }

    def close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor, self._file = -1, None

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock(), UTC).date()

    def _open(self, more: int) -> None:
        """Opens the file for so many bytes more: today's, or the next of today. Raises OSError."""
        free = os.statvfs(self.directory if self.directory.exists() else self.directory.parent)
        if free.f_bavail * free.f_frsize < self._kept_free + more:
            raise OSError(errno.ENOSPC, f"less than {self._kept_free >> 20} MiB would be left on the file system")
        today = self._today()
        if self._file is not None and self._file.day == today:
            there = os.fstat(self._descriptor)
            # Deleted or moved by an administrator: a new one is begun.
            if there.st_nlink > 0 and there.st_size + more <= self._file_limit:
                return
        self.close()
        if not self.directory.exists():
            self.directory.mkdir(parents=True)
            self.directory.chmod(0o750)  # whatever the umask: a collector's group may read
        last = max((file for file in files(self.directory) if file.day == today), default=None)
        number = last.number if last is not None else 0
        if last is not None and last.path.stat().st_size + more > self._file_limit:
            number += 1
        name = f"nat64-bindings-{today}{f'.{number}' if number else ''}.jsonl"
        path = self.directory / name
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._descriptor = os.open(path, flags, 0o640)
        self._file = LogFile(today, number, path)
        os.fchmod(self._descriptor, 0o640)
        self._end_line()

    def _end_line(self) -> None:
        """A power cut may have left half a line: the next one must not be part of it."""
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def _write(self, data: bytes) -> None:
        """Writes all or nothing. Raises OSError."""
        before = os.fstat(self._descriptor).st_size
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
