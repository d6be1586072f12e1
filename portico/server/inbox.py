"""Inbox accounting: the gateway's tunnels, followed in memory and written to the store in batches by a thread.

Nothing here may stop or slow the service. While the store cannot be written, sessions wait in memory up to a bound;
beyond it they are counted as lost, and the status says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from portico.accounting.session_store import NAME, Session, SessionStore
from portico.errors import Conflict, NotFound, PorticoError, Unavailable
from portico.settings.accounting import limit_days
from portico.settings.database import set_aside
from portico.settings.model import Settings

log = logging.getLogger("portico.accounting")

FLUSH_INTERVAL: Final = 2.0
LOOK_INTERVAL: Final = 30.0
"""Seconds between looks at the tunnels' counters."""
IDLE_LOOK_INTERVAL: Final = 300.0
"""The same while nothing is written down and only the numbers of tunnels are followed."""
PRUNE_INTERVAL: Final = 3600.0
MAXIMUM_WAITING: Final = 65_536
"""Ended sessions that wait for the store."""
MAXIMUM_ACTIVE: Final = 262_144


class Inbox:
    """Accounting of one server.

    Args:
        directory: of the store; made when accounting is first enabled.
        settings: the settings in force.
        sessions: the gateway's tunnels; raises PorticoError when it does not answer.

    Attributes:
        opened: tunnels since the start; most: how many there were at once.
        lost: sessions that could not be written.
        trouble: why the last batch could not be written.
    """

    def __init__(
        self,
        directory: Path,
        settings: Callable[[], Settings | None],
        sessions: Callable[[], Awaitable[list[dict[str, Any]]]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.opened = 0
        self.most = 0
        self.lost = 0
        self.trouble: PorticoError | None = None
        self._directory = directory
        self._settings = settings
        self._sessions = sessions
        self._clock = clock
        self._active: dict[int, Session] = {}
        self._changed: set[int] = set()
        self._ended: deque[Session] = deque()
        self._store: SessionStore | None = None
        self._pruned = float("-inf")
        self._looked = float("-inf")
        self._writing = asyncio.Lock()

    @property
    def enabled(self) -> bool:
        settings = self._settings()
        return settings is not None and settings.accounting.inbox == "enabled"

    # Events

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes any event of the gateway. Never blocks."""
        try:
            match event.get("event"):
                case "session_up":
                    self._up(event)
                case "session_address":
                    self._address(int(event["session"]), str(event["address"]))
                case "session_down":
                    self._down(event)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning("event=%s malformed: %s: %s", event.get("event"), type(error).__name__, error)

    def _up(self, session: Mapping[str, Any], started: float | None = None) -> None:
        number, now = int(session["session"]), self._clock()
        if number in self._active:
            self._end(number, None, "lost")  # a new gateway counts from the beginning
        if len(self._active) >= MAXIMUM_ACTIVE:
            self.lost += 1
            return
        identity = session.get("identity") or {}
        peer = str(session.get("peer", ""))
        settings = self._settings()
        self._active[number] = Session(
            number=number,
            server=settings.server.name if settings is not None else "",
            name=str(identity.get("subject") or peer),
            serial=identity.get("serial"),
            peer=peer,
            started=started if started is not None else now,
            last_seen=now,
        )
        self._changed.add(number)
        self.opened += 1
        self.most = max(self.most, len(self._active))

    def _address(self, number: int, address: str) -> None:
        session = self._active.get(number)
        if session is not None and address not in session.addresses and len(session.addresses) < 16:
            session.addresses.append(address)
            self._changed.add(number)

    def _down(self, event: Mapping[str, Any]) -> None:
        session = self._active.get(int(event["session"]))
        if session is not None:
            session.bytes_in, session.bytes_out = int(event["bytes_in"]), int(event["bytes_out"])
            self._end(session.number, self._clock(), str(event.get("reason", "")))

    def _end(self, number: int, at: float | None, reason: str) -> None:
        session = self._active.pop(number)
        self._changed.discard(number)
        if at is not None:
            session.last_seen = at
        session.ended, session.reason = session.last_seen, reason
        if not self.enabled:
            return
        if len(self._ended) >= MAXIMUM_WAITING:
            self._ended.popleft()
            self.lost += 1
        self._ended.append(session)

    # Writing

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL)
            await self.step()

    async def step(self) -> None:
        """One look and one batch, each when it is due."""
        now = time.monotonic()
        if now - self._looked >= (LOOK_INTERVAL if self.enabled else IDLE_LOOK_INTERVAL):
            self._looked = now
            await self._look()
        await self.flush()
        if self.enabled and now - self._pruned >= PRUNE_INTERVAL:
            self._pruned = now
            await asyncio.to_thread(self._prune)

    async def stop(self) -> None:
        """Writes what is known, after `run` was cancelled and the gateway has ended."""
        for number in list(self._active):
            self._end(number, None, "server_stopped")
        await self.flush()
        if self._store is not None:
            self._store.close()
            self._store = None

    async def flush(self) -> None:
        """Writes what changed. What cannot be written is tried again."""
        async with self._writing:
            if self.enabled:
                await self._flush()
            else:
                self._changed.clear()
                self._ended.clear()

    async def _flush(self) -> None:
        ended = list(self._ended)
        changed, self._changed = self._changed, set()
        batch = [*ended, *(self._active[number] for number in changed if number in self._active)]
        if not batch:
            return
        try:
            await asyncio.to_thread(lambda: self._opened().write(batch))
        except PorticoError as error:
            self._changed |= {number for number in changed if number in self._active}
            if str(error) != str(self.trouble):
                log.warning("the inbox accounting store cannot be written: %s", error)
            self.trouble = error
            return
        self.trouble = None
        written = set(map(id, ended))
        while self._ended and id(self._ended[0]) in written:
            self._ended.popleft()

    async def _look(self) -> None:
        """Takes over the tunnels' counters, learns of tunnels whose events were missed, ends those that are gone."""
        before = self._clock()
        try:
            found = await self._sessions()
        except PorticoError:
            return
        seen = set()
        for item in found:
            try:
                number = int(item["session"])
                seen.add(number)
                if number not in self._active:
                    self._up(item, started=float(item["since"]))
                session = self._active.get(number)
                if session is None:
                    continue
                session.bytes_in, session.bytes_out = int(item["bytes_in"]), int(item["bytes_out"])
                session.last_seen = before
                for address in item.get("addresses", []):
                    self._address(number, str(address))
                self._changed.add(number)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                log.warning("session malformed: %s: %s", type(error).__name__, error)
        for number, session in list(self._active.items()):
            if number not in seen and session.started < before:
                self._end(number, None, "lost")

    def _opened(self) -> SessionStore:
        """The store; a damaged one is put aside, as accounting must not need an administrator to go on."""
        if self._store is None:
            try:
                self._store = SessionStore.open(self._directory)
            except PorticoError as error:
                if error.code != "DATABASE_CORRUPT":
                    raise
                stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
                aside = set_aside(self._directory / NAME, stamp)
                log.error("%s; it is now %s and a new one was begun", error, aside)
                self._store = SessionStore.open(self._directory)
            left = self._store.close_open()
            if left:
                log.warning("sessions=%d of before a crash were ended when they were last seen", left)
        return self._store

    def _prune(self) -> None:
        settings = self._settings()
        if settings is None:
            return
        try:
            gone = self._opened().prune(self._clock() - limit_days(settings.accounting.store_limit) * 86_400)
        except PorticoError as error:
            log.warning("old sessions cannot be deleted: %s", error)
            return
        if gone:
            log.info("deleted=%d sessions older than %s", gone, settings.accounting.store_limit)

    # Answers

    def store(self) -> SessionStore:
        """The store for questions; it exists also when accounting was disabled later. Blocking.

        Raises:
            Conflict: accounting was never enabled.
        """
        if self._store is None and not self.enabled and not (self._directory / NAME).exists():
            raise Conflict(
                "Inbox accounting is disabled",
                why="this server never wrote down sessions",
                resolution="Enable it: portico settings set accounting.inbox=enabled",
                code="ACCOUNTING_DISABLED",
            )
        return self._opened()

    async def status(self) -> dict[str, Any]:
        """What `Get-RemoteAccessAccounting` shows."""
        settings = self._settings()
        if settings is None:
            raise NotFound("There are no settings", resolution="Install: portico server install")
        empty: dict[str, Any] = {
            "used_bytes": 0,
            "free_bytes": 0,
            "first_record": None,
            "last_record": None,
            "sessions": 0,
        }
        trouble = self.trouble
        try:
            await self.flush()
            empty = await asyncio.to_thread(lambda: self.store().status())
        except Conflict:
            trouble = None
        except PorticoError as error:
            trouble = error
        return {
            "enabled": self.enabled,
            "limit": settings.accounting.store_limit,
            "lost": self.lost,
            "trouble": str(trouble) if trouble is not None else None,
            "opened_since_start": self.opened,
            "most_at_once": self.most,
            **empty,
        }

    def problem(self) -> PorticoError | None:
        """Why sessions are not written down; None while they are, or need not be."""
        if not self.enabled or self.trouble is None:
            return None
        return Unavailable(
            "Sessions are not written down",
            why=f"{self.trouble}; {self.lost} are lost so far",
            resolution=self.trouble.resolution,
            code="ACCOUNTING_STORE",
        )
