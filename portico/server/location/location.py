"""What a server does about where clients are: its pages, whether they can be served, the records that lead to them.

It follows the document in force by looking at it, so nothing of it can make a change of settings fail.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from portico.connected import Door
from portico.errors import PorticoError, Unavailable
from portico.location.reach import fetch, trusting
from portico.naming.records.ask import addresses_of
from portico.server.location.observe import observe
from portico.server.location.pages import Pages
from portico.server.location.records import Records
from portico.settings.addresses import Address
from portico.settings.effective import Effective
from portico.settings.located import serves_nls
from portico.settings.model import Settings
from portico.supervisor import ChildState

if TYPE_CHECKING:
    from portico.server.agent import Agent

log = logging.getLogger("portico.location")

INTERVAL = 1.0
"""Seconds between looks at the document in force and at what clients need."""
NLS_INTERVAL = 20.0
PAGE_PATIENCE = 10.0
"""Seconds after a change of settings in which this server's own page may come."""
EXPIRY_WARNING = timedelta(days=14)


@dataclass(frozen=True)
class NlsCheck:
    """One look at the network location server. `at` in seconds since the epoch.

    Attributes:
        problems: what is wrong with it, at each address.
    """

    at: float
    url: str
    addresses: tuple[Address, ...]
    problems: tuple[PorticoError, ...]


@dataclass(frozen=True)
class Observations:
    """All that is known, for whoever judges the health of the server.

    Attributes:
        pages: why a page is not served as it should be.
        nls: the last look at the network location server; None without one, or before the first.
        reasons: part of the server to why clients cannot be served, what the web probe says.
        records: what is wrong with the records in the corporate DNS, on which server.
    """

    pages: tuple[PorticoError, ...]
    nls: NlsCheck | None
    reasons: dict[str, str]
    records: tuple[PorticoError, ...]

    @property
    def problems(self) -> tuple[PorticoError, ...]:
        return (*self.pages, *(self.nls.problems if self.nls is not None else ()), *self.records)


class Location:
    """Of one agent.

    Args:
        leads: whether this server is the one of its cluster that writes records.
        door: where the pages' process of the unit connects; None starts it here.
    """

    def __init__(self, agent: Agent, state: Path, leads: Callable[[], bool], door: Door | None) -> None:
        self._agent = agent
        self.pages = Pages(agent.credentials, door)
        self.records = Records(state, leads)
        self._nls: NlsCheck | None = None
        self._nls_due = 0.0
        self._document: Settings | None = None
        self._began = time.monotonic()

    def open(self) -> None:
        """Lets the unit's process connect. Raises Unavailable."""
        self.pages.open()

    async def stop(self) -> None:
        """After the tasks of `run` were cancelled."""
        await self.pages.stop()
        self.pages.close()

    async def run(self) -> None:
        """Until cancelled. What waits for others waits beside what must not."""
        await asyncio.gather(self._keep(self._serve), self._keep(self._look_outside))

    def observations(self) -> Observations:
        """What was seen last."""
        settings = self._agent.platform.settings
        pages = tuple(self.pages.problems(settings)) if settings is not None else ()
        return Observations(pages, self._nls, dict(self.pages.said.reasons), tuple(self.records.problems()))

    def status(self) -> dict[str, Any]:
        """For `portico server status` and the API."""
        values, seen = self._agent.platform.values, self.observations()
        nls = seen.nls
        return {
            "pages": self.pages.status(),
            "network_location_server": {
                "url": values.nls_url if values is not None else None,
                "checked": nls.at if nls is not None else None,
                "addresses": [str(address) for address in nls.addresses] if nls is not None else [],
                "ok": nls is not None and not nls.problems,
            },
            "dns_records": self.records.status(),
            "problems": [error.as_dict() for error in seen.problems],
        }

    def in_force(self) -> tuple[Settings, Effective]:
        """What is served now. Raises Unavailable, code NOT_SERVING."""
        settings, values = self._agent.platform.settings, self._agent.platform.values
        if settings is None or values is None:
            problem = self._agent.problem
            raise Unavailable(
                "The records are not known",
                why=str(problem) if problem is not None else "there are no settings in force",
                resolution="Look at the server: portico server status",
                code="NOT_SERVING",
            )
        return settings, values

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("location failed")
            await asyncio.sleep(INTERVAL)

    async def _serve(self) -> None:
        platform = self._agent.platform
        if platform.settings is not self._document:
            self._document, self._began = platform.settings, time.monotonic()
            self._nls_due = 0.0
            self.pages.changed()
            self.records.changed()
        await self.pages.follow(platform.settings, platform.values)
        await self.pages.say(await observe(platform, self._agent.problem), draining=await self._draining())

    async def _look_outside(self) -> None:
        settings, values = self._agent.platform.settings, self._agent.platform.values
        if settings is None or values is None or values.nls_url is None:
            self._nls = None
        elif time.monotonic() >= self._nls_due and not (serves_nls(settings) and self._starting()):
            found = await self._check_nls(settings, values, values.nls_url)
            failed = bool(found.problems)
            if failed and (self._nls is None or not self._nls.problems):
                log.error("nls=%s", "; ".join(map(str, found.problems)))
            self._nls = found
            self._nls_due = time.monotonic() + (INTERVAL if failed else NLS_INTERVAL)
        await self.records.tick(settings, values)

    def _starting(self) -> bool:
        """Whether this server's own page has yet to come; one that does not come is no longer waited for."""
        ready = self.pages.supervisor.state is ChildState.RUNNING
        return not ready and time.monotonic() - self._began < PAGE_PATIENCE

    async def _check_nls(self, settings: Settings, values: Effective, url: str) -> NlsCheck:
        """Fetches the page at each of its addresses: this server's own ones, or those that the intranet's DNS gives."""
        problems: list[PorticoError] = []
        own = serves_nls(settings)
        if own:
            addresses = tuple(place.address for place in self.pages.listeners.sockets if place.site == "nls")
        else:
            name = urlsplit(url).hostname or ""
            addresses = tuple(await addresses_of(name, settings.dns64.upstream_servers))
        if not addresses:
            why = "none of its listeners is open" if own else "the intranet's DNS servers give no address for its name"
            problems.append(_unreachable(url, why))
        identity = self.pages.identity
        context = await asyncio.to_thread(trusting, identity.trust if own and identity is not None else None)
        if not own and self._agent.credentials.authority is not None:
            context.load_verify_locations(cadata=self._agent.credentials.authority.pem)
        for address in addresses:
            try:
                reached = await fetch(url, address, context)
            except PorticoError as error:
                problems.append(error)
                continue
            if reached.not_after - datetime.now(UTC) < EXPIRY_WARNING:
                problems.append(_expires(url, reached.not_after))
        return NlsCheck(time.time(), url, addresses, tuple(problems))

    async def _draining(self) -> bool:
        """Whether the cluster sends this server no new clients."""
        if not self._agent.balancer.configured:
            return False
        try:
            found = await self._agent.balancer.status()
        except PorticoError:
            return False
        states = {server["name"]: server["state"] for server in found.get("servers", ())}
        return states.get(found.get("name")) in ("Draining", "Stopped", "Suspended")


def _unreachable(url: str, why: str) -> PorticoError:
    return Unavailable(
        f"The network location server {url} cannot be used",
        why=f"{why}; clients inside take themselves to be outside",
        resolution="Repair it at once, or correct network_location_server: portico settings edit",
        code="NLS_UNREACHABLE",
    )


def _expires(url: str, end: datetime) -> PorticoError:
    return PorticoError(
        f"The certificate of the network location server {url} expires soon",
        why=f"it is valid until {end:%Y-%m-%d %H:%M} UTC; after that clients inside take themselves to be outside",
        resolution="Renew it",
        code="NLS_CERTIFICATE_EXPIRES",
    )
