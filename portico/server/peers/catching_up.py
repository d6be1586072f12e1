"""Catching up: what is newest on each server, and taking up what is missing here.

Every server greets the others each second and says what it has; whoever has less asks for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from portico import __version__
from portico.errors import NotPermitted, PorticoError
from portico.server.cluster_secrets import ClusterState
from portico.server.peers import messages
from portico.settings.store import Revision

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")

GREETING_SECONDS = 2.0
DIVERGED = 20
"""Revisions that are asked for again when two histories differ; more cannot differ without a quorum."""
RETRY_FAILED = 30.0
"""Seconds before a revision that could not be applied here is tried again."""


class CatchingUp:
    """What this server knows of the others' settings, and takes up from them."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._one: asyncio.Lock = asyncio.Lock()
        self._failed: tuple[int, float] = (0, 0.0)

    async def greeting(self) -> dict[str, Any]:
        """What is newest on this server."""

        def look() -> dict[str, Any]:
            newest = self._peers.store().latest()
            return {
                "version": __version__,
                "revision": newest.number if newest is not None else 0,
                "sha256": newest.sha256 if newest is not None else "-",
                "created": newest.created.isoformat() if newest is not None else "-",
                "applied": self._peers.host.revision.number if self._peers.host.revision is not None else 0,
                "state": self._peers.state.version if self._peers.state is not None else 0,
                "transaction": self._peers.distribution.transaction,
                **self._peers.records.greeting(),
                **self._peers.administration.greeting(),
                **self._peers.following.greeting(),
            }

        return await asyncio.to_thread(look)

    async def greet(self, *, apply: bool = True) -> None:
        """Asks every other server what it has, and takes up what is new. Raises nothing about other servers."""
        mine = await self.greeting()
        asked = time.monotonic()
        found = await self._peers.links.each(
            self._peers.links.all(), lambda link: link.caller.post("/v1/greeting", mine, seconds=GREETING_SECONDS)
        )
        strange = [
            name for name, said in found.items() if isinstance(said, NotPermitted) and said.code == "NOT_A_MEMBER"
        ]
        if 2 * len(strange) > len(found):
            # Most of the others do not know this server: it was taken out while it was away. (One that joins is known
            # to most of them before it is a server.)
            self._peers.dismissed(strange[0])
            return
        for name, said in found.items():
            if isinstance(said, PorticoError):
                continue
            if isinstance(said, dict):
                self._peers.distribution.heard(name, said.get("transaction"), asked)
            try:
                await self.catch_up(name, said, apply=apply)
            except PorticoError as error:
                log.warning("server=%s cannot be caught up with: %s", name, error)

    def heard(self, name: str, said: dict[str, Any]) -> None:
        """A greeting of another server came in: it is there, and what it has is asked for with the next greeting."""
        link = self._peers.links.get(name)
        if link is not None:
            link.answered = time.monotonic()

    async def catch_up(self, name: str, said: Any, *, apply: bool = True) -> None:
        """Takes up from a server what is newer there. Raises PorticoError."""
        link = self._peers.links.get(name)
        if link is None or not isinstance(said, dict) or self._peers.state is None:
            return
        link.said, link.answered = said, time.monotonic()
        if said.get("log"):
            await self._peers.records.pull(link, said)
        await self._peers.administration.pull(link, said)
        if messages.number(said, "state") > self._peers.state.version:
            await self._peers.take_state(ClusterState.from_data(await link.caller.get("/v1/state")))
        if await self.newer(said) and not self._peers.distribution.busy:
            await self.pull_settings(name, apply=apply)
        await self._peers.following.pull(link, said)

    async def newer(self, said: dict[str, Any]) -> bool:
        newest = await asyncio.to_thread(self._peers.store().latest)
        number, digest = messages.number(said, "revision"), messages.text(said, "sha256")
        if newest is None or number > newest.number:
            return number > 0 and not self._failed_lately(number)
        if number < newest.number or digest == newest.sha256:
            return False
        return (messages.text(said, "created"), digest) > (newest.created.isoformat(), newest.sha256)

    def _failed_lately(self, number: int) -> bool:
        return self._failed[0] == number and time.monotonic() - self._failed[1] < RETRY_FAILED

    async def pull_settings(self, name: str, *, apply: bool = True) -> None:
        """Takes up the revisions of another server that are missing here. Raises PorticoError."""
        link = self._peers.links.get(name)
        if link is None:
            return
        async with self._one:
            newest = await asyncio.to_thread(self._peers.store().latest)
            after = newest.number if newest is not None else 0
            pulled: list[Revision] = []
            page = await link.caller.get("/v1/settings", after=after)
            if newest is not None and page.get("sha256") != newest.sha256:
                after = max(0, after - DIVERGED)  # the histories differ: theirs takes the place of the last ones here
                page = await link.caller.get("/v1/settings", after=after)
            while len(pulled) < 1000:
                revisions = [messages.revision(item) for item in messages.items(page, "revisions", limit=100)]
                pulled += revisions
                if not revisions or page.get("more") is not True:
                    break
                page = await link.caller.get("/v1/settings", after=revisions[-1].number)
            if pulled:
                await self._peers.following.prepare(link, pulled[-1].settings)
                await (self.take_up(pulled, name) if apply else self._only_store(pulled, name))

    def fetch_later(self, name: str) -> None:
        """Takes up the settings of a server as soon as the agent is free."""
        self._peers.spawn(self.pull_settings(name))

    async def settings_page(self, after: int) -> dict[str, Any]:
        """Revisions after a number, as many as fit into an answer, and the checksum of that number's own."""

        def look() -> dict[str, Any]:
            store = self._peers.store()
            chosen: list[Revision] = []
            for item in store.after(after, limit=100):
                if chosen and sum(len(r.text) for r in chosen) + len(item.text) > 2 << 20:
                    break
                chosen.append(item)
            latest = store.latest()
            digest: str | None = None
            with contextlib.suppress(PorticoError):
                digest = store.get(after).sha256 if after > 0 else None
            more = bool(chosen) and latest is not None and chosen[-1].number < latest.number
            return {"revisions": [messages.revision_data(item) for item in chosen], "sha256": digest, "more": more}

        return await asyncio.to_thread(look)

    async def take_up(self, revisions: list[Revision], sender: str) -> None:
        """Stores revisions of another server and applies the newest.

        Raises:
            PorticoError: it cannot be applied here; what was in force before is in force again.
        """
        newest = revisions[-1]
        settings = newest.settings
        balancing = settings.load_balancing
        if balancing is None or balancing.server(self._peers.own_name) is None:
            self._peers.dismissed(sender)
            return
        log.info("server=%s revision=%d taken up", sender, newest.number)
        try:
            await self._peers.host.follow(revisions)
        except PorticoError:
            self._failed = (newest.number, time.monotonic())
            raise

    async def _only_store(self, revisions: list[Revision], sender: str) -> None:
        settings = revisions[-1].settings
        if settings.load_balancing is None or settings.load_balancing.server(self._peers.own_name) is None:
            self._peers.dismissed(sender)
            return
        store = self._peers.store()
        await asyncio.to_thread(store.adopt, revisions)
        self._peers.document = settings
        log.info("server=%s revision=%d was missed; serving begins with it", sender, revisions[-1].number)

    async def retry(self) -> None:
        """Tries a revision again that is stored and could not be applied here."""
        in_force = self._peers.host.revision
        newest = await asyncio.to_thread(self._peers.store().latest)
        if newest is None or in_force is None or newest.number <= in_force.number or self._peers.distribution.busy:
            return
        if not self._failed_lately(newest.number):
            self._failed = (newest.number, time.monotonic())
            await self._peers.host.follow([])
