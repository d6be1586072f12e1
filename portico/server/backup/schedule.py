"""Backups that a server makes by itself: when one is due, what became of the last, and which are kept."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from portico.errors import Conflict, InvalidInput, NotFound, PorticoError
from portico.files import not_written, private_directory, read_file, write_file
from portico.server.backup.archive import Manifest, read
from portico.server.backup.container import unseal
from portico.server.backup.keys import passphrase, public_key
from portico.server.backup.writing import write_backup
from portico.settings.backup import Backup
from portico.settings.diff import compare
from portico.settings.store import SettingsStore

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.backup")

NAME: Final = "backup.json"
LOOK: Final = 15.0
AGAIN: Final = timedelta(minutes=15)
"""After one that failed."""

_FILE = re.compile(r"portico-[A-Za-z0-9_.-]{1,80}-\d{8}T\d{6}Z\.backup", flags=re.ASCII)


@dataclass(frozen=True)
class Attempt:
    """One backup. `at` is ISO 8601 in UTC; `file` and `revision` are None when it failed, `error` when it did not."""

    at: str
    file: str | None = None
    size: int | None = None
    revision: int | None = None
    error: dict[str, Any] | None = None


def due(section: Backup, last: datetime | None, failed: datetime | None, now: datetime) -> datetime:
    """When the next one is to be made. Pure; times in UTC.

    Args:
        last: when the last good one was made.
        failed: when one failed after it.
    """
    if last is None:
        wanted = now
    else:
        wanted = last + timedelta(hours=section.interval_hours)
        if section.at is not None:
            hour, minute = map(int, section.at.split(":"))
            # The time of day that is nearest: an interval of a day must not creep forward by what a backup takes.
            day = wanted - timedelta(hours=12)
            wanted = day.replace(hour=hour, minute=minute, second=0, microsecond=0)
            wanted += timedelta(days=1) if wanted < day else timedelta()
    return max(wanted, failed + AGAIN) if failed is not None else wanted


def overdue(section: Backup, last: datetime | None, since: datetime, now: datetime) -> bool:
    """Whether the last good one (or the beginning of the schedule) is too old: half an interval, at least an hour."""
    late = timedelta(hours=section.interval_hours) + max(
        timedelta(hours=1), timedelta(hours=section.interval_hours / 2)
    )
    return now - (last or since) > late


class Backups:
    """Of one server.

    Attributes:
        last: the last attempt; `good` the last that succeeded.
    """

    def __init__(self, agent: Agent, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._agent = agent
        self._now = now
        self._started = now()
        self._busy = asyncio.Lock()
        self._path = agent.state / NAME
        self.last, self.good = _read(self._path)

    async def run(self) -> None:
        """Makes them when they are due, until it is cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(LOOK)

    async def tick(self) -> None:
        """Makes one when it is due. Never fails, see `problem`."""
        section = self._section()
        if section is None or section.state == "disabled":
            return
        now = self._now()
        if now >= self._due(section, now):
            try:
                await self.make()
            except PorticoError as error:
                log.error("backup failed: %s", error)

    async def make(self) -> Attempt:
        """Makes one now, as the settings say where and for whom.

        Raises:
            Conflict: code BACKUP_DISABLED; the settings say nothing.
            PorticoError: it failed; that is remembered too.
        """
        section = self._section()
        if section is None or section.directory is None:
            raise Conflict(
                "The server does not know where to write a backup",
                why="backup.directory is not set",
                resolution="Set the section backup (docs/backup.md), or write one by hand: portico backup create FILE",
                code="BACKUP_DISABLED",
            )
        async with self._busy:
            now = self._now()
            try:
                attempt = await asyncio.to_thread(self._make, section, now)
            except PorticoError as error:
                self._note(Attempt(now.isoformat(), error=error.as_dict()))
                raise
            self._note(attempt)
            log.info("backup=%s revision=%s bytes=%s", attempt.file, attempt.revision, attempt.size)
            return attempt

    def files(self) -> list[dict[str, Any]]:
        """The backups of the directory, newest first: `{name, size, modified}`. Blocking. Raises PorticoError."""
        section = self._section()
        if section is None or section.directory is None:
            return []
        found = []
        try:
            for path in Path(section.directory).iterdir():
                if _FILE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                    seen = path.stat()
                    found.append({"name": path.name, "size": seen.st_size, "modified": seen.st_mtime})
        except FileNotFoundError:
            return []
        except OSError as error:
            raise not_written(Path(section.directory), error) from None
        return sorted(found, key=lambda item: (str(item["name"])[-23:], str(item["name"])), reverse=True)

    def file(self, name: str) -> Path:
        """One of them. Raises NotFound (NO_SUCH_BACKUP)."""
        section = self._section()
        if section is not None and section.directory is not None and _FILE.fullmatch(name):
            path = Path(section.directory) / name
            if path.is_file() and not path.is_symlink():
                return path
        raise NotFound(
            f"There is no backup {name[:120]}", resolution="List them: portico backup list", code="NO_SUCH_BACKUP"
        )

    def plan(self, name: str) -> dict[str, Any]:
        """Reads a backup whole, and says what a restore of it would change in the settings. Blocking.

        Raises:
            InvalidInput: code BACKUP_NOT_OURS; the server has a public key only. Otherwise: it is damaged.
            NotFound, PorticoError.
        """
        section, path = self._section(), self.file(name)
        if section is None or section.passphrase_file is None:
            raise InvalidInput(
                "This server cannot read its backups",
                why="they are encrypted for a recipient whose private key is not here",
                resolution="Verify it where that key is: portico backup verify FILE --key KEY",
                code="BACKUP_NOT_OURS",
            )
        by = passphrase(Path(section.passphrase_file), secret=True)
        with tempfile.TemporaryDirectory(prefix=".backup-plan-", dir=self._agent.state.parent) as stage:
            try:
                with path.open("rb") as source:
                    manifest = read(unseal(source, by), Path(stage))
            except OSError as error:
                raise not_written(path, error) from None
            store = SettingsStore.open(Path(stage))
            try:
                newest = store.latest()
            finally:
                store.close()
        lines: list[str] = []
        if newest is not None and self._agent.platform.settings is not None:
            current = self._agent.transactions.store().latest()
            lines = compare(current.settings if current is not None else None, newest.settings).lines(connected=None)
        return {"manifest": manifest.as_dict(), "lines": lines}

    def status(self) -> dict[str, Any]:
        section = self._section()
        enabled = section is not None and section.state == "enabled"
        following = self._due(section, self._now()) if section is not None and enabled else None
        return {
            "enabled": enabled,
            "directory": section.directory if section is not None else None,
            "next": following.isoformat() if following is not None else None,
            "last": asdict(self.last) if self.last is not None else None,
            "last_good": asdict(self.good) if self.good is not None else None,
        }

    def problem(self) -> tuple[str, str] | None:
        """What is wrong with the schedule, and what to do; None when all is well, or there is none."""
        section = self._section()
        if section is None or section.state == "disabled":
            return None
        if self.last is not None and self.last.error is not None:
            error = self.last.error
            return f"{error.get('what')}: {error.get('why') or 'no cause is known'}", str(error.get("resolution") or "")
        if overdue(section, _time(self.good), self._started, self._now()):
            when = self.good.at[:16].replace("T", " ") if self.good is not None else "never"
            return f"the last one was made: {when}", "Make one: portico backup make; then look at the server's log"
        return None

    def _section(self) -> Backup | None:
        settings = self._agent.platform.settings
        return settings.backup if settings is not None else None

    def _due(self, section: Backup, now: datetime) -> datetime:
        failed = _time(self.last) if self.last is not None and self.last.error is not None else None
        return due(section, _time(self.good), failed, now)

    def _make(self, section: Backup, now: datetime) -> Attempt:
        assert section.directory is not None
        if section.recipient_file is not None:
            to: Any = public_key(Path(section.recipient_file))
        elif section.passphrase_file is not None:
            to = passphrase(Path(section.passphrase_file), secret=True)
        else:
            raise InvalidInput(
                "The backup would not be encrypted",
                why="neither backup.recipient_file nor backup.passphrase_file is set",
                resolution="Set one of them",
                code="BACKUP_INCOMPLETE",
            )
        directory = Path(section.directory)
        if not directory.is_dir():
            private_directory(directory)
        settings = self._agent.platform.settings
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", settings.server.name if settings is not None else "server")[:80]
        file = directory / f"portico-{name}-{now:%Y%m%dT%H%M%SZ}.backup"
        manifest: Manifest = write_backup(self._agent.state, file, to, now=now, accounting=section.accounting)
        size = file.stat().st_size
        self._prune(directory, name, section.keep)
        return Attempt(now.isoformat(), file.name, size, manifest.revision)

    @staticmethod
    def _prune(directory: Path, name: str, keep: int) -> None:
        """Deletes this server's own beyond the newest."""
        own = re.compile(rf"portico-{re.escape(name)}-\d{{8}}T\d{{6}}Z\.backup", flags=re.ASCII)
        found = sorted((path for path in directory.iterdir() if own.fullmatch(path.name)), reverse=True)
        for path in found[keep:]:
            try:
                path.unlink()
            except OSError as error:
                log.warning("backup=%s cannot be deleted: %s", path, error)

    def _note(self, attempt: Attempt) -> None:
        self.last = attempt
        if attempt.error is None:
            self.good = attempt
        data = {"last": asdict(attempt), "good": asdict(self.good) if self.good is not None else None}
        try:
            write_file(self._path, json.dumps(data).encode())
        except PorticoError as error:
            log.warning("%s", error)


def _time(attempt: Attempt | None) -> datetime | None:
    return datetime.fromisoformat(attempt.at) if attempt is not None else None


def _read(path: Path) -> tuple[Attempt | None, Attempt | None]:
    """The last attempt and the last good one. Damage loses them and is logged: one more is made."""
    try:
        data = json.loads(read_file(path, limit=64 << 10))
        found = [Attempt(**data[key]) if data[key] is not None else None for key in ("last", "good")]
        for attempt in found:
            if attempt is not None and datetime.fromisoformat(attempt.at).tzinfo is None:
                raise ValueError("a time has no zone")
        return found[0], found[1]
    except NotFound:
        return None, None
    except (PorticoError, ValueError, TypeError, LookupError, RecursionError) as error:
        log.warning("file=%s cannot be read, when backups were made is forgotten: %s", path, error)
        return None, None
