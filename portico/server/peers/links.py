"""The other servers of the cluster: where they are, whether they answer, what they said last."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from portico.errors import PorticoError
from portico.server.peers.caller import Caller, PeerUnreachable
from portico.server.peers.listener import PORT
from portico.settings.load_balancing import ClusterServer

log = logging.getLogger("portico.peers")

SILENCE = 3.0
"""Seconds without an answer after which a server does not count as reachable."""

Locate = Callable[[ClusterServer], tuple[str, int] | None]
Result = TypeVar("Result")


@dataclass
class Heard:
    """What the balancer last found out about a server by heartbeats: whether it lives, and since when (monotonic)."""

    alive: bool
    since: float


@dataclass
class Link:
    """One other server. `answered` is a monotonic time, `said` its last greeting.

    Attributes:
        heard: by heartbeats; None while they say nothing, as without a balancer here.
    """

    name: str
    place: tuple[str, int]
    caller: Caller
    answered: float = float("-inf")
    said: dict[str, Any] = field(default_factory=dict)
    trouble: str = ""
    heard: Heard | None = None

    @property
    def reachable(self) -> bool:
        return time.monotonic() - self.answered < SILENCE

    @property
    def present(self) -> bool:
        """Whether it is there, which heartbeats find out sooner than answers that do not come.

        One that heartbeats miss and that has answered since is there: only its balancer is dead or held up. One that
        they hear and that does not answer is not, as nothing can be agreed with it.
        """
        missed = self.heard is not None and not self.heard.alive and self.answered <= self.heard.since
        return self.reachable and not missed


def internal_address(server: ClusterServer) -> tuple[str, int] | None:
    """The peers' listener of a server: its first internal DIP; None without a DIP."""
    addresses = [*server.internal_dedicated_addresses, *server.internet_dedicated_addresses]
    return (str(addresses[0].ip), PORT) if addresses else None


class Links:
    """Keeps one caller for each other server of the document."""

    def __init__(self, locate: Locate) -> None:
        self.locate = locate
        self._links: dict[str, Link] = {}
        self._heard: dict[str, Heard] = {}

    async def follow(self, servers: Iterable[ClusterServer], own_name: str, context: ssl.SSLContext) -> None:
        """Adds and removes callers, so that there is one for each server but the own one."""
        wanted = {server.name: self.locate(server) for server in servers if server.name != own_name}
        for name in list(self._links):
            if wanted.get(name) != self._links[name].place:
                await self._links.pop(name).caller.close()
        for name, place in wanted.items():
            if place is not None and name not in self._links:
                self._links[name] = Link(name, place, Caller(*place, name, context), heard=self._heard.get(name))

    async def close(self) -> None:
        links, self._links = list(self._links.values()), {}
        for link in links:
            await link.caller.close()

    def all(self) -> list[Link]:
        return list(self._links.values())

    def get(self, name: str) -> Link | None:
        return self._links.get(name)

    def reachable(self) -> list[Link]:
        return [link for link in self._links.values() if link.reachable]

    def present(self) -> list[Link]:
        return [link for link in self._links.values() if link.present]

    def heard(self, name: str, alive: bool) -> None:
        """Heartbeats found a server to live, or to be silent."""
        self._keep(name, Heard(alive, time.monotonic()))

    def deafened(self) -> None:
        """There are no heartbeats here any more: who is there is known from answers alone."""
        for name in list(self._heard):
            self._keep(name, None)

    def _keep(self, name: str, heard: Heard | None) -> None:
        if heard is None:
            self._heard.pop(name, None)
        else:
            self._heard[name] = heard
        if (link := self._links.get(name)) is not None:
            link.heard = heard

    async def each(
        self, links: Iterable[Link], ask: Callable[[Link], Awaitable[Result]]
    ) -> dict[str, Result | PorticoError]:
        """Asks several servers at once; an error of one is its result. Whoever answers counts as reachable."""

        async def one(link: Link) -> Result | PorticoError:
            try:
                result: Result | PorticoError = await ask(link)
            except PeerUnreachable as error:
                if str(error) != link.trouble:
                    log.warning("server=%s unreachable: %s", link.name, error.why)
                    link.trouble = str(error)
                return error
            except PorticoError as error:
                result = error
            link.answered, link.trouble = time.monotonic(), ""
            return result

        asked = list(links)
        results = await asyncio.gather(*(one(link) for link in asked))
        return {link.name: result for link, result in zip(asked, results, strict=True)}
