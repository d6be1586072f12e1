"""The agent's handle on the pages' process: sockets and certificate in, what it says, how it does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from portico.connected import Door
from portico.errors import PorticoError
from portico.location.availability import Availability, judge
from portico.location.pages import Site
from portico.server.credentials import Credentials, now_utc
from portico.server.location.identity import PageIdentity, page_identity, renewal_problem
from portico.server.location.listeners import Listeners, places
from portico.settings.effective import Effective
from portico.settings.located import serves_nls
from portico.settings.model import Settings
from portico.spawned import account
from portico.supervisor import ChildState, Program, Start, Supervisor

log = logging.getLogger("portico.location")

USER = "portico-location"
UNIT = "portico-location.service"
MODULE = "portico.location.process"

RENEWAL_INTERVAL = 60.0
"""Seconds between looks whether the certificate is due or was replaced."""

_STEADY = 2
"""Looks in a row at which a part must not work before the web probe says so: one lost packet is no outage."""


class Pages:
    """The process, while a document in force wants pages; none otherwise.

    Args:
        door: where the process of the unit connects; None starts it as a child of this process.
    """

    def __init__(self, credentials: Credentials, door: Door | None) -> None:
        self.door = door
        self.identity: PageIdentity | None = None
        self.said = Availability({"agent": "nothing was looked at yet"})
        self.listeners = Listeners()
        self._credentials = credentials
        self._problem: PorticoError | None = None
        self._given: PageIdentity | None = None
        self._looked_at_certificate = 0.0
        self._failing: dict[str, int] = {}
        self._counters: dict[str, Any] = {}
        program = Program("location", MODULE, user=account(USER) if door is None else None, heartbeat="stats")
        self.supervisor = Supervisor(program, self._start, lambda _event: None, source=door)

    def open(self) -> None:
        """Lets the unit's process connect. Raises Unavailable."""
        if self.door is not None:
            self.door.open()

    async def stop(self) -> None:
        await self.supervisor.stop()
        self.listeners.close()
        self.identity = None

    def close(self) -> None:
        """After `stop`."""
        if self.door is not None:
            self.door.close()

    async def follow(self, local: Settings | None, values: Effective | None) -> None:
        """Makes sockets, certificate and process fit the document in force. Never fails, see `problems`."""
        if local is None or values is None:
            if self.supervisor.state is not ChildState.STOPPED or self.listeners.sockets:
                await self.stop()
            return
        await self._look_at_certificate(local)
        wanted = places(local, values)
        if self.identity is None:
            wanted = tuple(place for place in wanted if place.site is not Site.NLS)
        changed = self.listeners.follow(wanted)
        if not self.listeners.sockets:
            if self.supervisor.state is not ChildState.STOPPED:
                await self.supervisor.stop()
        elif self.supervisor.state in (ChildState.STOPPED, ChildState.STOPPING):
            self.supervisor.start()
        elif changed or self.identity != self._given:
            # Nobody waits long: connections stay in the backlog of the sockets, which live on here.
            self.supervisor.kill("it needs other sockets or another certificate")

    async def say(self, observed: Mapping[str, str], *, draining: bool = False) -> None:
        """Tells the process what was observed. What it is not told goes out of date there by itself."""
        self._failing = {part: self._failing.get(part, 0) + 1 for part, why in observed.items() if why}
        steady = {
            part: why if self._failing.get(part, 0) >= _STEADY or part in self.said.reasons else ""
            for part, why in observed.items()
        }
        former, self.said = self.said, judge(steady, draining=draining)
        if former.reasons != self.said.reasons:
            state = "available" if self.said.available else "unavailable"
            log.warning("web_probe=%s reasons=%r", state, dict(self.said.reasons))
        if self.supervisor.state is ChildState.RUNNING:
            try:
                await self.supervisor.request("say", availability=self.said.as_dict())
                found = await self.supervisor.request("stats")
            except PorticoError as error:
                log.warning("what the web probe says is not known: %s", error)
                return
            self._counters = found if isinstance(found, dict) else {}

    def problems(self, local: Settings) -> list[PorticoError]:
        """Why a page is not served as it should be."""
        found = [*self.listeners.problems.values()]
        if self._problem is not None:
            found.append(self._problem)
        if self.listeners.sockets and self.supervisor.state in (ChildState.WAITING, ChildState.STARTING):
            why = self.supervisor.reason or self.supervisor.last_failure
            if why:
                found.append(
                    PorticoError(
                        "The pages for clients are not served",
                        why=why,
                        resolution=f"Look at it with: journalctl -u {UNIT} -u portico-server",
                        code="LOCATION_PROCESS",
                    )
                )
        return found

    def status(self) -> dict[str, Any]:
        """State of the process, where it listens, what it says, its counters."""
        return {
            **self.supervisor.status(),
            "listening": [
                {"site": place.site.value, "address": place.text, "port": place.port}
                for place in sorted(self.listeners.sockets)
            ],
            "available": self.said.available,
            "reasons": dict(self.said.reasons),
            "counters": {key: value for key, value in self._counters.items() if isinstance(value, int)},
        }

    async def _look_at_certificate(self, local: Settings) -> None:
        if not serves_nls(local):
            self.identity, self._problem, self._looked_at_certificate = None, None, 0.0
            return
        now = time.monotonic()
        if self.identity is not None and now - self._looked_at_certificate < RENEWAL_INTERVAL:
            return
        self._looked_at_certificate = now
        try:
            self.identity = await asyncio.to_thread(page_identity, self._credentials, local, now_utc())
            self._problem = None
        except PorticoError as error:
            self._problem = renewal_problem(error) if self.identity is not None else error

    def changed(self) -> None:
        """The document in force is another one: its certificate is looked at now."""
        self._looked_at_certificate = -RENEWAL_INTERVAL

    def _start(self) -> Start:
        self._given = self.identity
        config: dict[str, Any] = {"availability": self.said.as_dict()}
        if self.identity is not None:
            config |= {"chain": self.identity.chain, "key": self.identity.key}
        return Start(config, {site.value: self.listeners.of(site) for site in Site})
