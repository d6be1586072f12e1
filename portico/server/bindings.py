"""NAT64's accounting: the gateway's reports of bindings, joined with who the client is, into the log.

Events arrive on the event loop and are written by a thread; between the two is a bounded queue. Whatever does not fit
or cannot be written is counted and noted in the log itself: an answer from the log must not pretend to be complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from portico.accounting import records
from portico.accounting.binding_log import BindingLog
from portico.accounting.owners import Owners
from portico.errors import PorticoError, Unavailable
from portico.settings.effective import Binding

log = logging.getLogger("portico.bindings")

QUEUE_ROWS = 131_072
"""Rows that may wait for the disk: a quarter of a full table, some 40 MB."""

PRUNE_INTERVAL = 3600.0


class BindingAccounting:
    """The log of one server.

    Args:
        held: yields the bindings that exist now, as the gateway lists them; raises PorticoError when it cannot.
    """

    def __init__(self, directory: Path, held: Callable[[], AsyncIterator[list[dict[str, Any]]]]) -> None:
        self.owners = Owners()
        self.log = BindingLog(directory)
        self.enabled = False
        self.retention_days = 30
        self._held = held
        self._statics: dict[tuple[str, str, int], Binding] = {}
        self._queue: deque[list[bytes]] = deque()
        self._queued = 0
        self._wake = asyncio.Event()
        self._pruned = float("-inf")

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes any event of the gateway. Never blocks."""
        try:
            self.owners.event(event)
            if event.get("event") == "nat64_bindings" and self.enabled:
                self._rows(event)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.warning("event=%s malformed: %s: %s", event.get("event"), type(error).__name__, error)
            found = event.get("rows")
            self.log.lose(len(found) if isinstance(found, list) else 0, "they were malformed")

    def gateway_started(self) -> None:
        """A new gateway has no binding but the static ones."""
        self.owners.forget_sessions()
        if self.enabled:
            self._put([records.mark("start", time.time()), *self._static_rows("open", self._statics.values())])

    async def configure(self, *, enabled: bool, retention_days: int, statics: Iterable[Binding]) -> None:
        """Takes the settings in force; the gateway has them already."""
        now: dict[tuple[str, str, int], Binding] = {(b.protocol, str(b.address), b.port): b for b in statics}
        former, self._statics = self._statics, now
        self.retention_days = retention_days
        self.owners.keep_former = enabled
        self._pruned = float("-inf")
        if enabled and not self.enabled:
            self.enabled = True
            self._put([records.mark("on", time.time())])
            await self._note_held()
            self._put(self._static_rows("open", now.values()))
        elif enabled:
            self._put(self._static_rows("close", [b for key, b in former.items() if now.get(key) != b]))
            self._put(self._static_rows("open", [b for key, b in now.items() if former.get(key) != b]))
        elif self.enabled:
            self._put([records.mark("off", time.time())])
            self.enabled = False
        self._wake.set()

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            # Not wait_for: it forgets a cancellation that comes together with the event (Python before 3.12).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PRUNE_INTERVAL / 4):
                    await self._wake.wait()
            self._wake.clear()
            await self._flush()
            if time.monotonic() - self._pruned >= PRUNE_INTERVAL:
                self._pruned = time.monotonic()
                await asyncio.to_thread(self._prune)

    async def stop(self) -> None:
        """Writes what waits, after `run` was cancelled and the gateway has ended."""
        if self.enabled:
            self._put([records.mark("stop", time.time())])
        await self._flush()
        self.log.close()

    def problem(self) -> PorticoError | None:
        """Why bindings are not written down; None while they are, or need not be."""
        if not self.enabled or self.log.trouble is None:
            return None
        return Unavailable(
            "The bindings of NAT64 are not written down",
            why=f"{self.log.directory}: {self.log.trouble}; {self.log.lost} rows are lost so far",
            resolution="Make room or correct the directory; or keep less: nat64.binding_log_retention_days",
            code="BINDING_LOG",
        )

    def status(self) -> dict[str, Any]:
        """What `portico nat64 stats` shows of the log. Looks at the disk."""
        return {
            "enabled": self.enabled,
            "retention_days": self.retention_days,
            "waiting": self._queued,
            **self.log.status(),
        }

    def _rows(self, event: Mapping[str, Any]) -> None:
        lines = []
        for values in event["rows"]:
            lines.append(records.row(values, self.owners.of(str(values[3]), float(values[1]))))
        self.log.lose(int(event.get("dropped", 0)), "the gateway had no room for them")
        self._put(lines)

    def _static_rows(self, kind: str, bindings: Iterable[Binding]) -> list[bytes]:
        now = time.time()
        return [
            records.row(
                (kind, now, b.protocol, str(b.client), b.client_port, str(b.address), b.port),
                self.owners.of(str(b.client), now),
                static=True,
            )
            for b in bindings
        ]

    async def _note_held(self) -> None:
        """What was bound before logging began has an unknown beginning and a known end."""
        try:
            async for page in self._held():
                now = time.time()
                self._put(
                    [
                        records.row(
                            ("held", now, *(item[k] for k in ("protocol", "client", "client_port", "address", "port"))),
                            self.owners.of(str(item["client"]), now),
                        )
                        for item in page
                        if not item.get("static")
                    ]
                )
        except (PorticoError, KeyError, TypeError, ValueError) as error:
            log.warning("bindings that exist already are not in the log: %s", error)

    def _put(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._queued + len(lines) > QUEUE_ROWS:
            self.log.lose(len(lines), "the disk was too slow")
        else:
            self._queue.append(lines)
            self._queued += len(lines)
        self._wake.set()

    async def _flush(self) -> None:
        while self._queue:
            batch: list[bytes] = []
            while self._queue and len(batch) < 8192:
                batch += self._queue.popleft()
            self._queued -= len(batch)
            before = self.log.trouble
            await asyncio.to_thread(self.log.append, batch)
            if self.log.trouble is not None and self.log.trouble != before:
                log.warning("log=%s cannot be written, bindings are lost: %s", self.log.directory, self.log.trouble)
            elif self.log.trouble is None and before is not None:
                log.info("log=%s is written again, lost=%d", self.log.directory, self.log.lost)

    def _prune(self) -> None:
        try:
            for path in self.log.prune(self.retention_days):
                log.info("deleted=%s older than %d days", path, self.retention_days)
        except OSError as error:
            log.warning("old files of %s cannot be deleted: %s", self.log.directory, error)
