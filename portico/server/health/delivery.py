"""Brings alerts to one receiver: in order, tried again with growing pauses, in a bounded queue."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from typing import Any, Protocol

from portico.errors import PorticoError

log = logging.getLogger("portico.alerts")

MAXIMUM_QUEUE = 500
MAXIMUM_AGE = 24 * 3600.0
"""Seconds after which an alert is news no more."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
SEND_SECONDS = 20.0


class Rejected(PorticoError):
    """The receiver does not take this alert, and never will."""

    code = "ALERT_REJECTED"


class Sender(Protocol):
    """One way to one receiver."""

    name: str

    async def send(self, alert: dict[str, Any]) -> None:
        """Raises Rejected, PorticoError or OSError."""

    async def close(self) -> None: ...


def pause(failures: int) -> float:
    """Seconds before the next attempt after so many failures in a row."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE)


class Delivery:
    """The way to one receiver.

    Args:
        former: the one before a change of settings, which has ended; what waited there waits here.
    """

    def __init__(self, sender: Sender, former: Delivery | None = None) -> None:
        self.sender = sender
        self.sent = 0
        self.failures = 0
        self.dropped = 0
        self.error = ""
        self.failing_since: float | None = None
        self._queue: deque[dict[str, Any]] = former._queue if former is not None else deque()
        self._queued: deque[float] = former._queued if former is not None else deque()
        self._more = asyncio.Event()
        self._in_a_row = 0

    def put(self, alert: dict[str, Any]) -> None:
        """Queues an alert; when there is no room, the oldest is dropped and counted."""
        while len(self._queue) >= MAXIMUM_QUEUE:
            self._drop("too many wait")
        self._queue.append(alert)
        self._queued.append(time.monotonic())
        self._more.set()

    def status(self) -> dict[str, Any]:
        """For the API and for health. Times are seconds since the epoch."""
        return {
            "name": self.sender.name,
            "waiting": len(self._queue),
            "sent": self.sent,
            "failures": self.failures,
            "dropped": self.dropped,
            "error": self.error,
            "failing_since": self.failing_since,
        }

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                while not self._queue:
                    self._more.clear()
                    await self._more.wait()
                if time.monotonic() - self._queued[0] > MAXIMUM_AGE:
                    self._drop(f"not delivered within a day: {self.error}")
                    continue
                if not await self._attempt(self._queue[0]):
                    # A little by chance, so that servers that lost the same receiver do not come back all at once.
                    await asyncio.sleep(pause(self._in_a_row) * random.uniform(0.8, 1.2))  # noqa: S311
        finally:
            await self.sender.close()

    async def _attempt(self, alert: dict[str, Any]) -> bool:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self.sender.send(alert)
        except Rejected as error:
            self.failures += 1
            self.error = error.why or error.what
            if self._queue and self._queue[0] is alert:  # it may have been dropped meanwhile
                self._drop(str(error))
            return True
        except (PorticoError, OSError, TimeoutError) as error:
            self._failed(str(error) or "no answer in time")
            return False
        if self._queue and self._queue[0] is alert:
            self._queue.popleft()
            self._queued.popleft()
        if self.failing_since is not None:
            log.info("receiver=%s takes alerts again, waiting=%d", self.sender.name, len(self._queue))
        self.sent += 1
        self._in_a_row, self.error, self.failing_since = 0, "", None
        return True

    def _failed(self, why: str) -> None:
        if why != self.error:
            log.warning("receiver=%s alert not delivered, it is tried again: %s", self.sender.name, why)
        self.error = why[:300]
        self.failures += 1
        self._in_a_row += 1
        if self.failing_since is None:
            self.failing_since = time.time()

    def _drop(self, why: str) -> None:
        lost = self._queue.popleft()
        self._queued.popleft()
        self.dropped += 1
        self.error = self.error or why[:300]
        log.error("receiver=%s alert=%s dropped: %s", self.sender.name, lost.get("id"), why)
