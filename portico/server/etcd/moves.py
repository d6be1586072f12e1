"""Moving the settings between the servers' databases and etcd, and making an etcd anew from what one server has.

Each is a change of the document like any other: prepared, stored and applied on all servers, and put back when one
cannot. The etcd that it names is begun before, with this server as its only member and all revisions in it; when the
change fails nothing of it stays.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from portico.errors import Conflict, NotFound, PorticoError, Unavailable
from portico.server.etcd.keeper import Keeper
from portico.server.etcd.member import Membership, Place
from portico.server.etcd.process import find_etcd
from portico.settings.cluster_store import ClusterStore, voters
from portico.settings.etcd.client import EtcdUnavailable
from portico.settings.etcd.store import KEPT, EtcdStore
from portico.settings.model import Settings
from portico.settings.store import Revision

log = logging.getLogger("portico.store")

BEGIN_SECONDS = 30.0
VOTE_SECONDS = 60.0


class Moves:
    """What an administrator does with the store, on one server. One at a time."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._peers = keeper.peers
        self._one = asyncio.Lock()

    async def to_etcd(self, author: str, existing: ClusterStore | None = None) -> Any:
        """Lets etcd decide from now on; returns the change's outcome.

        Args:
            existing: endpoints and files of an etcd that is there already; None: Portico's own.

        Raises:
            Conflict: codes STORE_ALREADY, STORE_NOT_HERE.
            PorticoError: it did not work; the settings are where they were.
        """
        async with self._one:
            latest, settings = await self._newest()
            if settings.store.kind == "etcd":
                raise Conflict(
                    "The settings are in etcd already",
                    why=f"store.generation is {settings.store.generation}",
                    resolution="Look at it: portico cluster store status",
                    code="STORE_ALREADY",
                )
            if existing is not None:
                existing = existing.model_copy(update={"former_witnesses": settings.store.former_witnesses})
            wanted = with_etcd(settings, existing or settings.store)
            outcome = await self._begin(wanted, latest, author, "settings moved to etcd", frozenset())
            await self._wait_for_votes(wanted, author)
            return outcome

    async def enable(self, settings: Settings, *, expected: int, author: str, comment: str) -> Any:
        """Begins a cluster whose revisions etcd decides, its first one included; returns the change's outcome.

        Everything is undone on failure: the document, the cluster's secrets, the etcd that was started and its data.

        Args:
            settings: with this server as the only one of the cluster, from `with_etcd`.

        Raises:
            NotFound: code ETCD_MISSING.
            PorticoError: it did not work; this server serves alone as before.
        """
        async with self._one:
            peers, keeper = self._peers, self._keeper
            latest = await asyncio.to_thread(peers.store().latest)
            # What is wrong with the document is said before anything is touched.
            find_etcd()
            await peers.host.change(settings, expected=expected, author=author, comment=comment, dry_run=True)
            if latest is None or latest.settings.load_balancing is not None:
                raise Conflict("Load balancing is enabled already", code="LB_ENABLED")
            await peers.found(settings.server.name)
            try:
                # The dedicated address comes with the document, and the document with the etcd that decides about it.
                async with keeper.pausing():
                    outcome = await self._begin(
                        settings, latest, author, comment, frozenset(), Place(keeper.founding_host)
                    )
            except BaseException:
                await peers.disband()
                raise
            try:
                await self._working()
            except PorticoError as error:
                await self._serve_alone(latest, settings, author, error)
                raise
            return outcome

    async def _working(self) -> None:
        """Until etcd answers where the others find it. Raises Unavailable (STORE_NOT_STARTED)."""
        keeper, deadline = self._keeper, time.monotonic() + BEGIN_SECONDS
        while not keeper.quorum():
            if time.monotonic() > deadline:
                why = keeper.process.reason or keeper.process.supervisor.last_failure
                raise _not_started(why or (keeper.problem.why if keeper.problem is not None else "it does not answer"))
            await asyncio.sleep(0.1)

    async def _serve_alone(self, former: Revision, settings: Settings, author: str, error: PorticoError) -> None:
        """Puts the document of a server without a cluster back, without the etcd that does not work."""
        newest = await asyncio.to_thread(self._peers.store().latest)
        assert newest is not None
        self._keeper.abandoned = settings.store.generation
        try:
            comment = f"load balancing undone: {error.what}"
            await self._peers.host.change(former.settings, expected=newest.number, author=author, comment=comment)
        finally:
            self._keeper.abandoned = None
            self._keeper.poke()

    async def to_sqlite(self, author: str) -> Any:
        """Lets the servers decide among themselves again. Raises Conflict (STORE_ALREADY), PorticoError."""
        async with self._one:
            latest, settings = await self._newest()
            if settings.store.kind == "sqlite":
                raise Conflict("The settings are in the servers' databases already", code="STORE_ALREADY")
            section = _without_etcd(settings)
            return await self._peers.host.change(
                settings.model_copy(update={"store": section}),
                expected=latest.number,
                author=author,
                comment="settings moved out of etcd",
            )

    async def recover(self, author: str, *, force: bool = False) -> Any:
        """Makes an etcd anew from this server's database, when the one there was is lost.

        Args:
            force: also while it works (its content is wrong, for example).

        Raises:
            Conflict: codes STORE_WORKS, STORE_COPY_OLD, STORE_NOT_ETCD.
        """
        async with self._one:
            latest, settings = await self._newest()
            if settings.store.kind != "etcd":
                raise Conflict(
                    "There is no etcd to make anew",
                    why="the settings are in the servers' databases",
                    resolution="A damaged database: portico settings repair",
                    code="STORE_NOT_ETCD",
                )
            if not force:
                await self._require_lost()
            self._require_newest(latest)
            present = self._peers.present()
            servers = settings.load_balancing.servers if settings.load_balancing is not None else []
            lost = frozenset(server.name for server in servers if server.name not in present)
            log.warning("store=made anew from revision %d without %s", latest.number, ", ".join(sorted(lost)) or "-")
            self._keeper.abandoned = settings.store.generation
            try:
                async with self._keeper.pausing():
                    await self._keeper.process.stop()
                    comment = f"etcd made anew from the copy of {self._peers.own_name}"
                    wanted = with_etcd(settings, settings.store)
                    outcome = await self._begin(wanted, latest, author, comment, lost)
                    if not lost:
                        await self._wait_for_votes(wanted, author)
                    return outcome
            finally:
                self._keeper.abandoned = None
                self._keeper.poke()

    async def rejoin(self) -> None:
        """Makes this server's member anew from the others. Raises Conflict (STORE_NOT_ETCD), Unavailable."""
        async with self._one:
            if not self._keeper.active():
                raise Conflict("There is no etcd to join", why="the settings are in the servers' databases")
            await self._keeper.require_quorum()
            await asyncio.to_thread(self._keeper.require_others)
            async with self._keeper.pausing():
                await self._keeper.process.stop()
                await asyncio.to_thread(self._keeper.file.save, None)
            self._keeper.poke()

    async def compact(self) -> int:
        """Makes space in etcd; returns how many old revisions went. Raises PorticoError."""
        store = self._keeper.store
        if store is None or not self._keeper.active():
            raise Conflict("There is no etcd to compact", why="the settings are in the servers' databases")
        return await asyncio.to_thread(store.compact, KEPT)

    # Steps

    async def _begin(
        self,
        settings: Settings,
        latest: Revision,
        author: str,
        comment: str,
        lost: frozenset[str],
        listen: Place | None = None,
    ) -> Any:
        keeper = self._keeper
        former = await asyncio.to_thread(keeper.file.load)
        own = not settings.store.endpoints
        if own:
            self._require_here(settings)
        store = await self._found(settings, own, listen)
        try:
            outcome = await self._peers.host.change(
                settings, expected=latest.number, author=author, comment=comment, lost=lost
            )
        except BaseException:
            log.warning("store=not moved")
            with suppress(PorticoError):
                await asyncio.to_thread(store.clear)
            store.client.close()
            if own:
                await keeper.process.stop()
                await asyncio.to_thread(keeper.file.save, former)
            raise
        finally:
            keeper.founding = None
        keeper.keep(store, settings)
        keeper.poke()
        return outcome

    async def _found(self, settings: Settings, own: bool, listen: Place | None) -> EtcdStore:
        """Begins an etcd with all revisions in it. Raises PorticoError; nothing is left then."""
        keeper, generation = self._keeper, settings.store.generation
        assert generation is not None
        name = self._peers.own_name
        endpoints: tuple[str, ...] = ()
        if own:
            place = keeper.locate(settings, name)
            assert place is not None
            endpoints = ((listen or place).client_url,)
            membership = Membership(generation, "founder", f"{name}={place.peer_url}", founder=True)
        former = await asyncio.to_thread(keeper.file.load)
        store = await asyncio.to_thread(keeper.connect, settings, generation, endpoints)
        keeper.founding = store
        try:
            if own:
                await asyncio.to_thread(keeper.file.save, membership)
                share = await asyncio.to_thread(keeper.share, settings)
                await keeper.part.run(share, membership, [former.data] if former is not None else [], listen)
                await self._answering(store)
                membership = replace(membership, had_data=True)
                await asyncio.to_thread(keeper.file.save, membership)
            revisions = await asyncio.to_thread(self._revisions)
            await asyncio.to_thread(store.seed, revisions)
        except BaseException:
            keeper.founding = None
            if own:
                await keeper.process.stop()
                await asyncio.to_thread(keeper.file.save, former)
            store.client.close()
            raise
        return store

    async def _answering(self, store: EtcdStore) -> None:
        deadline = time.monotonic() + BEGIN_SECONDS
        while True:
            try:
                await asyncio.to_thread(store.newest)
                return
            except EtcdUnavailable as error:
                process = self._keeper.process
                if time.monotonic() > deadline or process.supervisor.failures > 2:
                    raise _not_started(process.reason or process.supervisor.last_failure or error.why) from None
            await asyncio.sleep(0.1)

    async def _wait_for_votes(self, settings: Settings, author: str) -> None:
        """Until all voters vote; otherwise the settings go back."""
        wanted = set(voters(settings).names)
        deadline = time.monotonic() + VOTE_SECONDS
        while time.monotonic() < deadline:
            if wanted <= await asyncio.to_thread(self._voting):
                return
            await asyncio.sleep(0.2)
        missing = ", ".join(sorted(wanted - await asyncio.to_thread(self._voting)))
        latest, current = await self._newest()
        section = _without_etcd(current)
        await self._peers.host.change(
            current.model_copy(update={"store": section}),
            expected=latest.number,
            author=author,
            comment=f"settings moved out of etcd: {missing} did not take part",
        )
        raise Unavailable(
            "The settings cannot be moved to etcd; they are where they were",
            why=f"{missing} did not become a member of etcd within {VOTE_SECONDS:g} s",
            resolution="Look at etcd there: portico cluster store status; the servers reach each other on TCP ports "
            "2379 and 2380",
            code="STORE_NOT_MOVED",
        )

    def _voting(self) -> set[str]:
        store = self._keeper.store
        if store is None:
            return set()
        try:
            return {member.name for member in store.client.members() if not member.learner}
        except PorticoError:
            return set()

    def _revisions(self) -> list[Revision]:
        return list(reversed(self._peers.store().history(limit=KEPT)))

    async def _newest(self) -> tuple[Revision, Settings]:
        latest = await asyncio.to_thread(lambda: self._peers.store().latest())
        if latest is None or self._peers.state is None or latest.settings.load_balancing is None:
            raise NotFound(
                "There is no cluster whose settings could be moved",
                why="this server serves alone, and its own database has them",
                resolution="Enable load balancing first: portico lb enable",
                code="LB_DISABLED",
            )
        return latest, latest.settings

    def _require_here(self, settings: Settings) -> None:
        names = voters(settings).names
        if self._peers.own_name not in names:
            raise Conflict(
                "etcd does not begin on this server",
                why=f"it is to run on {', '.join(names)}: {voters(settings).why}",
                resolution=f"Do this on {names[0]}",
                code="STORE_NOT_HERE",
            )

    async def _require_lost(self) -> None:
        try:
            await self._keeper.require_quorum()
        except PorticoError:
            return
        raise Conflict(
            "The store works",
            why="a quorum of etcd answers",
            resolution="Nothing needs to be recovered. One member that is lost comes back by itself, or with: portico "
            "cluster store rejoin, there",
            code="STORE_WORKS",
        )

    def _require_newest(self, latest: Revision) -> None:
        for link in self._peers.links.reachable():
            number = link.said.get("revision")
            if isinstance(number, int) and number > latest.number:
                raise Conflict(
                    "Another server has newer settings than this one",
                    why=f"{link.name} has revision {number}, this server revision {latest.number}",
                    resolution=f"Do this on {link.name}",
                    code="STORE_COPY_OLD",
                )


def with_etcd(settings: Settings, section: ClusterStore | None = None) -> Settings:
    """The document with an etcd that nobody has begun yet.

    Args:
        section: endpoints and files of an etcd that is there already, or the witness.
    """
    fresh = (section or ClusterStore()).model_copy(update={"kind": "etcd", "generation": secrets.token_hex(6)})
    return settings.model_copy(update={"store": fresh})


def _without_etcd(settings: Settings) -> ClusterStore:
    """Of another etcd of this cluster the same certificates are to be refused."""
    return ClusterStore(witness=settings.store.witness, former_witnesses=settings.store.former_witnesses)


def _not_started(why: str) -> Unavailable:
    return Unavailable(
        "etcd does not start on this server",
        why=why,
        resolution="Look at its messages: journalctl -u portico-store. The settings are where they were",
        code="STORE_NOT_STARTED",
    )
