"""The cluster's store as one server has it: runs its member of etcd, asks etcd, and keeps its database level with it.

Which etcd there is says the document (`store`); what a server does follows from it alone, again and again:

- a server that is to be a member and is none has itself added. It learns first and votes when it has caught up, so that
  a machine that cannot start costs no quorum. Only a move or a recovery begins an etcd without others (`moves`);
- the leader takes out members that the document does not have: dead ones at once, others when all that stay vote;
- every server looks for newer revisions, when etcd says that there are some and at least each `LOOK_INTERVAL`.

Without a quorum settings are read-only and nothing else changes: a server reads from its own database, and starts from
the revision that it applied last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portico.connected import Door
from portico.errors import Conflict, InvalidInput, NotFound, PorticoError, Unavailable
from portico.files import read_file
from portico.server.credentials import now_utc
from portico.server.etcd.identity import (
    client_context,
    make_check,
    make_seal,
    own_certificate,
    refused_certificates,
)
from portico.server.etcd.member import FOUNDING_HOST, Place
from portico.server.etcd.part import Part, Share
from portico.server.etcd.process import find_etcd
from portico.server.etcd.turn import Turn
from portico.server.etcd.watching import watch
from portico.server.peers.links import internal_address
from portico.settings.cluster_store import ClusterStore, voters
from portico.settings.etcd.client import EtcdClient, EtcdUnavailable, Member
from portico.settings.etcd.store import EtcdStore
from portico.settings.model import Settings
from portico.settings.store import Revision

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.store")

LOOK_INTERVAL = 1.0
UNANSWERED = 10.0
"""Seconds without an answer of a quorum after which settings count as read-only."""
UNSTARTED = 60.0
"""Seconds after which a learner that never started makes room for another."""
DIVERGED = 20
_PAGE = 50

Locate = Callable[[Settings, str], Place | None]


def place_of(settings: Settings, name: str) -> Place | None:
    """Where a member is: at its server's first internal DIP, or the witness; None for anybody else."""
    witness = settings.store.witness
    if witness is not None and witness.name == name:
        return Place(str(witness.address))
    server = settings.load_balancing.server(name) if settings.load_balancing is not None else None
    address = internal_address(server) if server is not None else None
    return Place(address[0]) if address is not None else None


class Keeper:
    """One server's share in the cluster's store. Does nothing while the document says SQLite.

    Args:
        door: where the etcd of the unit connects; None starts it as a child.
        locate: where a member is.

    Attributes:
        problem: why the store does not work here, None while it does.
    """

    def __init__(self, peers: Peers, state: Path, door: Door | None = None, locate: Locate = place_of) -> None:
        self.peers = peers
        self.locate = locate
        self.founding_host = FOUNDING_HOST
        self.part = Part(state, door)
        self.process, self.file = self.part.process, self.part.file
        self.problem: PorticoError | None = None
        self.store: EtcdStore | None = None
        self.founding: EtcdStore | None = None
        """An etcd that is begun by a move or recovery, before a document names it."""
        self.abandoned: str | None = None
        """The generation that a recovery gives up."""
        self._key: object = None
        self._turn: Turn | None = None
        self._refused: tuple[object, str] | None = None
        self._answered = float("-inf")
        self._lost_since: float | None = None
        self._unstarted: dict[int, float] = {}
        self._wake = asyncio.Event()
        self._one = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._running = False

    # What the others ask

    def decider(self) -> Keeper | None:
        """Who decides about the next revision; None outside of a cluster. Where no etcd is meant, it agrees."""
        return self if self.peers.state is not None else None

    def decide(self, former: Revision | None, revision: Revision) -> Sequence[Revision]:
        """See `portico.settings.stores.Decider`. Blocking."""
        was = former.settings.store if former is not None else ClusterStore()
        now = revision.settings.store
        head = (former.number, former.sha256) if former is not None else None
        if was.kind == "etcd" and was.generation != self.abandoned:
            store = self._open(was.generation)
            try:
                if not store.append(revision, head):
                    return self._newer(store, former)
            except EtcdUnavailable as error:
                raise self.no_quorum(error) from None
        moved = now.kind == "etcd" and now.generation != was.generation
        if moved and not self._open(now.generation).append(revision, head):
            raise Conflict("The settings cannot be moved", why="the new etcd has others already", code="STORE_BUSY")
        return ()

    def active(self) -> bool:
        """Whether etcd decides about changes now."""
        document = self.peers.document
        return document is not None and self.peers.state is not None and document.store.kind == "etcd"

    def quorum(self) -> bool:
        """Whether a quorum of etcd answered lately."""
        return time.monotonic() - self._answered < UNANSWERED

    def turn(self) -> bool:
        """Whether this server alone does now what one server does for all."""
        return self._turn is not None and self._turn.held

    def require_program(self, settings: Settings) -> None:
        """Raises NotFound (ETCD_MISSING) when this server is to run etcd and has none."""
        if self.peers.own_name in voters(settings).names:
            find_etcd()

    def require_others(self) -> None:
        """Raises Unavailable (STORE_NEEDED) when the other members are no quorum without this server's. Blocking."""
        document, store = self.peers.document, self.store
        assert document is not None
        if store is None:
            raise self.no_quorum(None)
        place = self.locate(document, self.peers.own_name)
        voting = [member for member in store.client.members() if not member.learner]
        others = [m for m in voting if place is None or place.peer_url not in m.peer_urls]
        there = [member.name for member in others if _alive(store.client, member)]
        if 2 * len(there) <= len(voting):
            raise Unavailable(
                "This server's member of etcd cannot be made anew now",
                why=f"without it too few are left: {', '.join(there) or 'none'} of {len(voting)}",
                resolution="Start the other members first; when they are lost: portico cluster store recover",
                code="STORE_NEEDED",
            )

    def keep(self, store: EtcdStore, settings: Settings) -> None:
        """Goes on with the store that was founded."""
        self.store, self._key = store, (settings.store, self.peers.trust)

    async def require_quorum(self) -> None:
        """Raises Unavailable (STORE_NO_QUORUM) when settings cannot be changed now."""
        document = self.peers.document
        assert document is not None
        if document.store.generation == self.abandoned:
            return
        store = self._open(document.store.generation)
        try:
            await asyncio.to_thread(store.newest)
        except EtcdUnavailable as error:
            self._lost()
            raise self.no_quorum(error) from None
        self._answered = time.monotonic()

    def read_only(self) -> PorticoError | None:
        """Why settings cannot be changed, None while they can."""
        if not self.active() or self.quorum() or not self._running:
            return None
        return self.problem if self.problem is not None else self.no_quorum(None)

    def no_quorum(self, error: PorticoError | None) -> Unavailable:
        """The error for a store that cannot decide."""
        document = self.peers.document
        own = voters(document).names if document is not None else ()
        who = ", ".join(own) or ", ".join(document.store.endpoints if document is not None else ())
        told = f" ({error.why})" if error is not None and error.why else ""
        revision = self.peers.host.revision
        number = f"revision {revision.number}" if revision is not None else "the last applied revision"
        return Unavailable(
            "The settings cannot be changed now",
            why=f"settings are read-only while etcd has no quorum: fewer than half and one of {who} answer{told}",
            resolution=f"Start them or repair the network between them; the service goes on with {number}. If they are "
            "lost for good, make the store anew from this server's copy: portico cluster store recover",
            code="STORE_NO_QUORUM",
        )

    # Life

    def start(self) -> None:
        """Raises Unavailable: the unit's process cannot connect."""
        self.process.open()
        self._running = True
        self.peers.spawn(self._run())

    async def stop(self) -> None:
        """Ends this server's member; its data stays."""
        self._running = False
        self._wake.set()
        self._unwatch()
        async with self._one:
            await self.process.stop()
            self._forget_store()
            self.process.close()

    @contextlib.asynccontextmanager
    async def pausing(self) -> AsyncIterator[None]:
        """Keeps the loop from looking meanwhile."""
        async with self._one:
            yield

    def poke(self) -> None:
        """Has the loop look now."""
        self._wake.set()

    async def _run(self) -> None:
        while self._running:
            self._wake.clear()
            try:
                async with self._one:
                    if self._running:
                        await self.tick()
            except PorticoError as error:
                self._note(error)
            except Exception:
                log.exception("the store failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._wake.wait()

    async def tick(self) -> None:
        """Makes this server's share what the document says. Raises PorticoError; it is tried again."""
        document = self.peers.document
        if not self.active() or document is None:
            # While a change is in flight it may be undone, and what it moved the settings out of is needed for that.
            undoable = document is not None and self.peers.distribution.busy
            if self.founding is None and not undoable:
                await self._idle()
            return
        if document.store.generation == self.abandoned:
            return
        former = self.store
        store = await asyncio.to_thread(self._open, document.store.generation)
        if former is not store:
            self._unwatch()
        newest, trouble = await asyncio.to_thread(_ask, store)
        share = await asyncio.to_thread(self.share, document)
        await self.part.follow(share, store.client, there=newest is not None)
        if newest is None:
            self._lost()
            raise self.no_quorum(trouble)
        self._answered, self._lost_since = time.monotonic(), None
        if self.problem is not None:
            log.info("store=working")
            self.problem = None
        self._watch(store)
        await self._take_turn(store)
        await self._level(store, newest)
        if self.peers.leads() and not document.store.endpoints:
            await self._tidy(document, store.client)

    def _lost(self) -> None:
        if self._lost_since is None:
            self._lost_since = time.monotonic()

    def _note(self, error: PorticoError) -> None:
        if self.problem is None or error.code != self.problem.code:
            log.warning("store=%s", error)
        self.problem = error

    async def _idle(self) -> None:
        self._unwatch()
        self._forget_store()
        self.problem = None
        await self.part.rest()

    def _forget_store(self) -> None:
        if self.store is not None and self.store is not self.founding:
            self.store.client.close()
        self.store, self._key, self._turn = None, None, None
        self._answered = float("-inf")

    # Asking etcd

    def _open(self, generation: str | None) -> EtcdStore:
        """The store of a generation: the one that is being founded, or that of the document. Raises PorticoError."""
        if self.founding is not None and generation is not None and f"/{generation}/" in self.founding.prefix:
            return self.founding
        document = self.peers.document
        if document is None or document.store.generation != generation or generation is None:
            if self.store is not None and generation is not None and f"/{generation}/" in self.store.prefix:
                return self.store  # a change that moved the settings out of it is undone
            raise InvalidInput(
                "The settings cannot be moved like this",
                why="store.generation names an etcd that nobody has begun",
                resolution="Move them with: portico cluster store move etcd, or move sqlite",
                code="STORE_NOT_MOVED",
            )
        key = (document.store, self.peers.trust)
        if self.store is None or key != self._key:
            fresh = self.connect(document, generation)
            self._forget_store()
            self.store, self._key = fresh, key
        self.store.client.follow(self.endpoints(document))
        return self.store

    def connect(self, document: Settings, generation: str, endpoints: Sequence[str] = ()) -> EtcdStore:
        """A store on the etcd that a document means. Raises PorticoError."""
        section, state = document.store, self.peers.state
        assert state is not None
        if section.endpoints:
            assert section.ca is not None and section.certificate is not None
            key = Path(section.key) if section.key is not None else None
            trust = read_file(Path(section.ca)).decode(errors="replace")
            context = client_context(trust, Path(section.certificate), key)
        else:
            context = client_context(self.peers.trust, self.certificate(document))
        client = EtcdClient(endpoints or self.endpoints(document), context)
        seal = make_seal(self.peers.own_name, self.peers.files.member)
        return EtcdStore(
            client, f"/portico/{state.cluster_id}/{generation}/", seal, make_check(lambda: self.peers.state)
        )

    def certificate(self, document: Settings) -> Path:
        """This server's certificate for etcd."""
        place = self.locate(document, self.peers.own_name)
        addresses = {ip_address(self.founding_host)} | ({ip_address(place.host)} if place is not None else set())
        return own_certificate(self.peers.files, self.peers.own_name, addresses, now_utc())

    def endpoints(self, document: Settings) -> tuple[str, ...]:
        """Where etcd is asked."""
        """This server's own member first: it needs no network."""
        if document.store.endpoints:
            return tuple(document.store.endpoints)
        places = {name: self.locate(document, name) for name in voters(document).names}
        # Members that are to leave still answer while the new ones learn.
        known = [url for member in self.part.members for url in member.client_urls]
        own = self.peers.own_name
        ordered = sorted(places, key=lambda name: name != own)
        urls = [place.client_url for name in ordered if (place := places[name]) is not None]
        return tuple(dict.fromkeys((*urls, *known)))

    def _newer(self, store: EtcdStore, former: Revision | None) -> list[Revision]:
        """What etcd has beyond a revision, or instead of it and what follows."""
        after = former.number if former is not None else 0
        if former is not None:
            try:
                there = store.get(former.number).sha256
            except NotFound:
                there = ""
            if there != former.sha256:
                after = max(0, after - DIVERGED)
        found: list[Revision] = []
        while page := store.after(found[-1].number if found else after, limit=_PAGE):
            found += page
        return found

    async def _level(self, store: EtcdStore, newest: tuple[int, str]) -> None:
        """Takes up revisions that this server's database does not have."""
        own = await asyncio.to_thread(self.peers.store().latest)
        if (own is not None and (own.number, own.sha256) == newest) or self.peers.distribution.busy:
            return
        if own is not None and own.number > newest[0]:
            return  # a change of ours between etcd and the database
        found = await asyncio.to_thread(self._newer, store, own)
        if found and not self.peers.distribution.busy:
            await self.peers.catching_up.take_up(found, "etcd")

    async def _take_turn(self, store: EtcdStore) -> None:
        if self._turn is None or self._turn.client is not store.client:
            self._turn = Turn(store.client, f"{store.prefix}leader", self.peers.own_name)
        await asyncio.to_thread(self._turn.hold if self.peers.leads() else self._turn.give_up)

    # This server's member

    def share(self, document: Settings) -> Share:
        """What this server is to be in etcd. Blocking. Raises PorticoError."""
        own, generation = self.peers.own_name, document.store.generation
        assert generation is not None
        certificate = read_file(self.certificate(document)).decode()
        files = {"ca.pem": self.peers.trust, "store.pem": certificate, "crl.pem": self.refused(document)}
        return Share(own, generation, own in voters(document).names, self.locate(document, own), files)

    def refused(self, document: Settings) -> str:
        """The revocation list of the document's etcd. Blocking. Raises PorticoError."""
        key = (self.peers.trust, tuple(document.store.former_witnesses))
        if self._refused is None or self._refused[0] != key:
            self._refused = key, refused_certificates(self.peers.files.authority(), key[1])
        return self._refused[1]

    # What the leader does

    async def _tidy(self, document: Settings, client: EtcdClient) -> None:
        """Takes out a member that the document does not have, one at a time."""

        def tidy() -> None:
            members = self.part.members = client.members()
            wanted = set(voters(document).names)
            now = time.monotonic()
            unstarted = {member.number for member in members if not member.name}
            self._unstarted = {number: self._unstarted.get(number, now) for number in unstarted}
            for number, since in self._unstarted.items():
                if now - since > UNSTARTED:
                    client.remove(number)
                    log.warning("etcd: member %x never started and was taken out", number)
                    return
            extra = [member for member in members if member.name and member.name not in wanted]
            voting = {member.name for member in members if not member.learner}
            for member in sorted(extra, key=lambda member: _alive(client, member)):
                if _alive(client, member) and not wanted <= voting:
                    return
                client.remove(member.number)
                log.info("etcd: member %s taken out", member.name)
                return

        try:
            await asyncio.to_thread(tidy)
        except (Conflict, NotFound) as error:
            log.info("etcd cannot be changed now: %s", error.why)

    # Watching

    def _watch(self, store: EtcdStore) -> None:
        if self._watching is None or self._watching.done():
            work = watch(store.client, f"{store.prefix}newest", self._told)
            self._watching = asyncio.ensure_future(work)

    def _told(self) -> None:
        """There is a newer revision. One that this server waits for is brought by whoever makes it, and looked for
        after `LOOK_INTERVAL` if it is not."""
        if not self.peers.distribution.busy:
            self.poke()

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    # Telling

    async def status(self) -> dict[str, Any]:
        """What `portico cluster store status` shows. Raises nothing."""
        document = self.peers.document
        store = self.store
        plan = voters(document) if document is not None else None
        members: list[dict[str, Any]] = []
        if store is not None and document is not None:
            members = await asyncio.to_thread(self._describe, document, store.client)
        newest = None
        with contextlib.suppress(PorticoError):
            newest = await asyncio.to_thread(lambda: self.peers.store().latest())
        problem = self.read_only() or self.problem
        return {
            "kind": document.store.kind if document is not None else "sqlite",
            "generation": document.store.generation if document is not None else None,
            "existing": bool(document.store.endpoints) if document is not None else False,
            "answered_by": self.peers.own_name,
            "quorum": self.quorum() if self.active() else self.peers.quorum(),
            "read_only": self.read_only() is not None,
            "problem": problem.as_dict() if problem is not None else None,
            "voters": list(plan.names) if plan is not None else [],
            "voters_why": plan.why if plan is not None else "",
            "revision": newest.number if newest is not None else 0,
            "members": members,
            "witness": self.peers.witnessing.status(),
            "process": self.process.status() if self.active() else None,
        }

    def _describe(self, document: Settings, client: EtcdClient) -> list[dict[str, Any]]:
        with contextlib.suppress(PorticoError):
            self.part.members = client.members()
        known = {url: member for member in self.part.members for url in member.client_urls}
        third = document.store.witness
        witness = self.locate(document, third.name) if third is not None else None
        rows = []
        for url in self.endpoints(document):
            member = known.get(url)
            try:
                said = client.call("maintenance/status", {}, endpoint=url, seconds=1.5)
                trouble = ""
            except PorticoError as error:
                said, trouble = {}, error.why
            rows.append(
                {
                    "endpoint": url,
                    "name": member.name if member is not None else None,
                    "witness": witness is not None and url == witness.client_url,
                    "state": "does not answer"
                    if trouble
                    else "learns"
                    if member is not None and member.learner
                    else "leads"
                    if said.get("leader") and said.get("leader") == said.get("header", {}).get("member_id")
                    else "votes"
                    if said.get("leader", "0") != "0"
                    else "has no leader",
                    "version": said.get("version"),
                    "bytes": int(said.get("dbSize", 0)) if said else None,
                    "trouble": trouble,
                }
            )
        return rows


def _ask(store: EtcdStore) -> tuple[tuple[int, str] | None, PorticoError | None]:
    """What is newest there, or why that is not known."""
    try:
        newest = store.newest()
    except EtcdUnavailable as error:
        return None, error
    if newest is None:
        return None, EtcdUnavailable("", why="the etcd that answers has nothing of this cluster: it was made anew")
    return newest, None


def _alive(client: EtcdClient, member: Member) -> bool:
    for url in member.client_urls:
        try:
            client.call("maintenance/status", {}, endpoint=url, seconds=1.5)
        except EtcdUnavailable:
            continue
        except PorticoError:
            return True
        return True
    return False
