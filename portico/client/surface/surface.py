"""What the agent offers to those who look: its last log lines, and the status socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from fastapi import FastAPI

from portico.client.assistant.report import Check, Place, Report, State, Who
from portico.client.status import Status, Substatus
from portico.client.surface import feed
from portico.client.surface.log_tail import Tail
from portico.errors import PorticoError

log = logging.getLogger("portico.client.surface")

PAUSE: Final = 0.1
"""Seconds between two lines at least: a network that flaps is told at a pace that readers can follow."""
LOOK: Final = 5.0
"""Seconds until the report is looked at though nobody said that it changed."""


class Surface:
    """Belongs to one agent.

    Attributes:
        problem: why there is no status socket; empty when there is one or it was not asked for.
    """

    def __init__(self) -> None:
        self.tail = Tail()
        self.problem = ""
        self._feed: feed.Feed | None = None
        self._path: Path | None = None
        self._line: bytes | None = None
        self._changed = asyncio.Event()
        self._idle: Report | None = None

    def open(self, path: Path) -> None:
        """Opens the status socket. The tunnel does not depend on it: what goes wrong is `problem`, and in the log."""
        try:
            self._feed = feed.Feed(feed.listen(path))
        except PorticoError as error:
            self.problem = f"Users cannot read the status: {error}"
            log.error("%s", error)
            return
        self._path, self.problem = path, ""
        if self._line is not None:
            self._feed.tell(self._line)

    def tell(self, report: Report) -> None:
        """Tells readers how it stands; the same again is told to nobody."""
        self._line = feed.line(report)
        if self._feed is not None:
            self._feed.tell(self._line)

    def changed(self) -> None:
        """Something that the report says may have changed."""
        self._changed.set()

    async def keep(self, report: Callable[[], Report | None]) -> None:
        """Tells readers what changes, until it is cancelled.

        Args:
            report: how it stands now; None while nobody knows.
        """
        while True:
            self._changed.clear()
            told = report()
            if told is not None:
                self.tell(told)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._changed.wait()
            await asyncio.sleep(PAUSE)

    def without_assistant(self, status: Status, substatus: Substatus, problem: str) -> Report:
        """What there is to tell while the assistant is not at work: not enrolled, disconnected, or it cannot begin.

        Args:
            problem: what keeps it from beginning; empty when nothing does.
        """
        now, former = datetime.now(UTC), self._idle
        checks = (_cannot_begin(problem, now),) if problem else ()
        new = Report(place=Place.UNKNOWN, status=status, substatus=substatus, since=now, checks=checks)
        if former is None or _what(former) != _what(new):
            self._idle = former = new
        return former

    def readers(self) -> dict[str, Any]:
        """Readers of the status socket and its counters."""
        return self._feed.status() if self._feed is not None else {"readers": 0, "problem": self.problem}

    async def close(self) -> None:
        """Ends the status socket and removes it."""
        if self._feed is not None:
            await self._feed.close()
            self._feed = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _cannot_begin(problem: str, now: datetime) -> Check:
    return Check(
        name="client's agent",
        state=State.FAILED,
        detail=problem,
        cause="The agent cannot begin; it tries again by itself",
        resolution="See: systemctl status portico-client; journalctl -u portico-client",
        who=Who.ADMINISTRATOR,
        since=now,
    )


def _what(report: Report) -> tuple[Status, Substatus, tuple[str, ...]]:
    """A report without its times."""
    return report.status, report.substatus, tuple(check.detail for check in report.checks)


class HasSurface(Protocol):
    """What the control socket needs of the agent."""

    surface: Surface


def offer(app: FastAPI, agent: HasSurface) -> None:
    """Adds `GET /v1/log` and `GET /v1/readers`."""

    @app.get("/v1/log")
    async def lines() -> dict[str, Any]:
        return agent.surface.tail.as_dict()

    @app.get("/v1/readers")
    async def readers() -> dict[str, Any]:
        return agent.surface.readers()
