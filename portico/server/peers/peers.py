"""One server's share in the life of its cluster: greets the others, keeps what all of them share, answers them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial
from typing import Any, Protocol

from portico.administration.access import Access
from portico.certificates.ca import CertificateAuthority
from portico.certificates.tickets import TicketKey
from portico.connected import Door
from portico.errors import NotFound, PorticoError, Unavailable
from portico.server import bringing
from portico.server.cluster_secrets import ClusterFiles, ClusterSecrets, ClusterState, new_state
from portico.server.credentials import Credentials, now_utc
from portico.server.enrolment import Enrolment
from portico.server.etcd.keeper import Keeper
from portico.server.etcd.moves import Moves
from portico.server.gateway import Gateway, Request, Response
from portico.server.machine import Machine, read_own_name
from portico.server.peers import messages
from portico.server.peers.administration import Administration
from portico.server.peers.admission import Admission
from portico.server.peers.catching_up import GREETING_SECONDS, CatchingUp
from portico.server.peers.distribution import Change, Distribution
from portico.server.peers.enrolling import Enrolling
from portico.server.peers.farewell import Departure, Farewell, tell
from portico.server.peers.following import Following
from portico.server.peers.links import Links, Locate, internal_address
from portico.server.peers.listener import Listener, Refusals
from portico.server.peers.quorum import has_quorum, leader, require_quorum
from portico.server.peers.records import Records, keep_tickets, merge_states
from portico.server.peers.routes import Routes
from portico.server.peers.tls import caller_context, listener_context, own_member
from portico.server.users.users import Users
from portico.settings.load_balancing import LoadBalancing
from portico.settings.model import Settings
from portico.settings.problems import Problem
from portico.settings.store import Revision, SettingsStore

log = logging.getLogger("portico.peers")

GREETING_INTERVAL = 1.0
START_SECONDS = 5.0
"""So long a server that starts looks for newer settings before it serves from those it has."""


class Host(Protocol):
    """What the agent gives: its parts, and what only it can do. The agent's lock is held in `take_over_settings`."""

    access: Access
    users: Users
    credentials: Credentials
    enrolment: Enrolment
    state: Any
    machine: Machine

    @property
    def gateway(self) -> Gateway: ...

    @property
    def revision(self) -> Revision | None: ...

    def store(self) -> SettingsStore: ...
    async def check(self, settings: Settings) -> list[Problem]: ...
    async def change(
        self,
        settings: Settings,
        *,
        expected: int | None,
        author: str,
        comment: str = ...,
        dry_run: bool = ...,
        lost: frozenset[str] = ...,
    ) -> Any: ...
    async def follow(self, revisions: list[Revision]) -> None: ...
    async def leave(self, by: str) -> None: ...
    async def refresh_revoked(self) -> int: ...
    async def own_sessions(self) -> list[dict[str, Any]]: ...
    async def disconnect_here(self, name: str) -> int: ...
    async def command(self, name: str, *, by: str) -> None: ...


class Peers:
    """The other servers, as one server sees them. Without load balancing it does nothing.

    Args:
        spawn: runs a coroutine in the background until the agent stops.
        locate: where the listener of a server is.

    Attributes:
        problem: why the channel does not work on this server.
        own_health: this server's report, for the others; raises PorticoError while there is none.
    """

    def __init__(
        self,
        host: Host,
        spawn: Callable[[Awaitable[None]], None],
        locate: Locate = internal_address,
        store_door: Door | None = None,
    ) -> None:
        self.host = host
        self.files = ClusterFiles(host.state)
        self.links = Links(locate)
        self.refusals = Refusals()
        self.distribution = Distribution(self)
        self.records = Records(self)
        self.admission = Admission(self)
        self.administration = Administration(self)
        self.catching_up = CatchingUp(self)
        self.enrolling = Enrolling(self)
        self.farewell = Farewell(self)
        self.departure = Departure(host.state)
        self.following = Following(self)
        self.own_health: Callable[[], dict[str, Any]] = dict
        self.problem: PorticoError | None = None
        self.state: ClusterState | None = None
        self.own_name = ""
        self.trust = ""
        self.spawn = spawn
        self.keeper = Keeper(self, host.state, store_door)
        self.moves = Moves(self.keeper)
        self._listener: Listener | None = None
        self._place: tuple[str, int] | None = None
        self.document: Settings | None = None
        self._state_lock = asyncio.Lock()
        self._running = False
        self._poked = asyncio.Event()
        self._ending = False
        host.credentials.leads = self.leads

    @property
    def credentials(self) -> Credentials:
        return self.host.credentials

    def store(self) -> SettingsStore:
        return self.host.store()

    async def check(self, settings: Settings) -> list[Problem]:
        return await self.host.check(settings)

    # Life

    async def start(self) -> None:
        """Looks for newer settings and stores them, before anything is served. Never fails; see `problem`."""
        self._running = True
        await self._tidy()
        await self._settle()
        if self.state is not None and self.links.all():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    await self.catching_up.greet(apply=False)
        self.keeper.start()
        self.spawn(self._run())

    async def _tidy(self) -> None:
        """Finishes what an earlier process began and died over. Never fails; see `problem`."""
        by = self.departure.begun()
        try:
            if by is not None:
                await self._forget(by)
                return
            latest = await asyncio.to_thread(self.store().latest)
            if latest is None or not self.files.exists():
                return  # a machine that joins has the secrets before it has settings
            if latest.settings.load_balancing is not None:
                self.farewell.cancel()
            elif not self.farewell.outstanding():
                log.info("the secrets of a cluster that was never begun, or has ended, are removed")
                await asyncio.to_thread(self.files.remove)
        except PorticoError as error:
            log.error("what was left by an interrupted change stays: %s", error)

    async def stop(self) -> None:
        self._running = False
        await self.keeper.stop()
        await self._close()

    async def applied(self, settings: Settings) -> None:
        """The document in force is this one now: follows its servers and addresses, or ends."""
        self.document = settings
        await self._settle()
        self.keeper.poke()

    async def _settle(self) -> None:
        """Makes listener and callers fit the newest document. Never fails."""
        try:
            if self.document is None:
                latest = await asyncio.to_thread(self.store().latest)
                self.document = latest.settings if latest is not None else None
            balancing = self.document.load_balancing if self.document is not None else None
            over = self.document is not None and balancing is None and self.farewell.outstanding()
            self.state = await asyncio.to_thread(self.files.load) if not over else None
            name = read_own_name(self.host.state)
            if self.state is None or balancing is None or name is None:
                await self._close()
                return
            self.own_name, self.trust = name, self.files.authority().pem
            await self.links.follow(balancing.servers, name, caller_context(self.trust, self.files.member))
            await self._listen(balancing)
            self.problem = None
        except PorticoError as error:
            if str(error) != str(self.problem):
                log.error("the other servers cannot be reached: %s", error)
            self.problem = error

    async def _listen(self, balancing: LoadBalancing) -> None:
        own = balancing.server(self.own_name)
        place = self.links.locate(own) if own is not None else None
        if place == self._place and self._listener is not None:
            return
        if self._listener is not None:
            await self._listener.stop()
            self._listener, self._place = None, None
        if place is None:
            return
        listener = Listener(listener_context(self.files.member, self.trust), Routes(self).answer, self.refusals)
        await listener.start(*place)
        self._listener, self._place = listener, place
        log.info("peers=listening address=%s port=%d", *place)

    async def _close(self) -> None:
        await self.links.close()
        if self._listener is not None:
            await self._listener.stop()
            self._listener, self._place = None, None

    async def _run(self) -> None:
        while self._running:
            try:
                if self.problem is not None:
                    await self._settle()
                if self.state is not None:
                    await self.catching_up.greet()
                    await self.catching_up.retry()
                    await self._lead()
                    await self.admission.tick()
                elif not self._ending:
                    await self.farewell.tell()
            except PorticoError as error:
                log.warning("peers=%s", error)
            except Exception:
                log.exception("peers failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GREETING_INTERVAL):
                    await self._poked.wait()
            self._poked.clear()

    # Who is there

    def member(self, fingerprint: str) -> str | None:
        """The server that a certificate is; None for one that is no server of the newest document any more."""
        if self.state is None or self.document is None or self.document.load_balancing is None:
            return None
        names = [name for name, value in self.state.members.items() if value == fingerprint]
        return next((name for name in names if self.document.load_balancing.server(name) is not None), None)

    def present(self) -> set[str]:
        """This server and those that are there, as heartbeats and answers say (`Link.present`)."""
        return {self.own_name, *(link.name for link in self.links.present())}

    def heard(self, name: str, alive: bool | None) -> None:
        """Heartbeats found a server to live or to be silent; None: there are none here any more, whatever the name.

        All servers are greeted at once: who is silent and answers is there, and who came back has what is new.
        """
        if alive is None:
            self.links.deafened()
        else:
            self.links.heard(name, alive)
        self._poked.set()

    def leader(self) -> str:
        """The server that issues certificates and rotates keys now; this one when it is in no cluster."""
        if self.state is None or self.document is None:
            return self.own_name
        return leader(self.document, self.present()) or self.own_name

    def leads(self) -> bool:
        return self.leader() == self.own_name

    def quorum(self) -> bool:
        """Whether settings can be changed and computers enrolled here now."""
        if self.keeper.active():
            return self.keeper.quorum()
        return self.document is None or self.state is None or has_quorum(self.document, self.present())

    def acts_for_all(self) -> bool:
        """Whether this leader may do what no second server may do at the same time."""
        return self.keeper.turn() if self.keeper.active() else self.quorum()

    async def require_writable(self, former: Settings, settings: Settings) -> None:
        """Raises PorticoError when etcd cannot decide about a change, or cannot run here as the new document says."""
        if former.store.kind == "etcd":
            await self.keeper.require_quorum()
        self.keeper.require_program(settings)

    def require_quorum(self, what: str, present: Collection[str], former: Settings, settings: Settings) -> None:
        """Raises Unavailable unless these servers may change the document. Where etcd has it, etcd's quorum counts."""
        require_quorum(what, present, *(item for item in (former, settings) if item.store.kind != "etcd"))

    def secrets(self) -> ClusterSecrets | None:
        """Keys and seed of the cluster, None without one."""
        return self.state.current(now_utc()) if self.state is not None else None

    def status(self) -> dict[str, Any] | None:
        """The channel as `portico server status` shows it; None without load balancing."""
        if self.state is None:
            return None
        return {
            "name": self.own_name,
            "leader": self.leader(),
            "quorum": self.quorum(),
            "problem": self.problem.as_dict() if self.problem is not None else None,
            "refused": dict(self.refusals.counts),
            "servers": [
                {
                    "name": link.name,
                    "reachable": link.reachable,
                    "revision": link.said.get("revision"),
                    "applied": link.said.get("applied"),
                    "version": link.said.get("version"),
                }
                for link in self.links.all()
            ],
        }

    # Changing what is shared

    @contextlib.asynccontextmanager
    async def change(
        self, former: Revision | None, settings: Settings, lost: frozenset[str] = frozenset()
    ) -> AsyncIterator[Change | None]:
        """Around a change of settings on this server; None where no other server is concerned.

        A document with load balancing where there was none makes the cluster's secrets first, and a failure removes
        them; the other way round they go at the end. Raises as `Distribution.change`.
        """
        was = former.settings if former is not None else None
        if settings.load_balancing is not None and self.state is None and self.farewell.outstanding():
            await asyncio.to_thread(self.files.remove)  # another cluster begins: nobody is told of the former any more
        founded = settings.load_balancing is not None and self.state is None and not self.files.exists()
        ends = was is not None and was.load_balancing is not None and settings.load_balancing is None
        if ends and was is not None and was.load_balancing is not None and self.state is not None:
            await asyncio.to_thread(self.farewell.intend, was.load_balancing.servers, self.own_name)
            self._ending = True  # nobody is told before it is certain
        if founded:
            await asyncio.to_thread(self._found, settings.server.name)
        held = False
        try:
            if was is None or former is None or self.state is None or was.load_balancing is None:
                yield None
            else:
                async with self.distribution.change(was, settings, former, lost) as change:
                    yield change
                held = True
                await self._dismiss(was, settings)
        except BaseException:
            if founded:
                await self._close()
                self.state = None
                await asyncio.to_thread(self.files.remove)
            elif ends and not held:
                self.farewell.cancel()
            raise
        finally:
            self._ending = False

    async def found(self, name: str) -> None:
        """Makes the secrets of a new cluster before a document has it; `disband` forgets them. Raises PorticoError."""
        await asyncio.to_thread(self._found, name)
        self.state = await asyncio.to_thread(self.files.load)
        self.own_name, self.trust = name, self.files.authority().pem

    async def disband(self) -> None:
        """Forgets the secrets of a cluster that no document has. Raises PorticoError."""
        await self._close()
        self.state = None
        await asyncio.to_thread(self.files.remove)

    async def changed(self) -> None:
        """Spreads what is newest here. Never fails."""
        if self.state is not None:
            await self.records.tell("a change")

    def _found(self, name: str) -> None:
        """The secrets of a new cluster, with this server as its only member."""
        self.files.remove()
        state = new_state(now_utc())
        authority = CertificateAuthority.create(
            self.files.directory, name=f"cluster {state.cluster_id[:8]}", now=now_utc()
        )
        member = own_member(authority, self.files.directory, name, now_utc())
        self.files.save(state.with_member(name, member))

    async def _dismiss(self, was: Settings, settings: Settings) -> None:
        """Tells the servers that a change took out, and lets their certificates open nothing any more."""
        assert was.load_balancing is not None
        stay = {s.name for s in settings.load_balancing.servers} if settings.load_balancing is not None else set()
        gone = [server for server in was.load_balancing.servers if server.name not in stay]
        told = await tell(self, gone, self.own_name)
        for name in (server.name for server in gone):
            self.admission.forget(name)
            await self.change_state(partial(ClusterState.without_member, name=name))
        if settings.load_balancing is None:
            await self._close()
            self.state = None
            await self.farewell.told(told)

    def dismissed(self, by: str) -> None:
        """Another server says that this one was taken out. It stops serving and forgets what it was given."""
        log.warning("server=%s took this server out of the cluster", by)
        self.departure.note(by)  # whoever said so does not say it again
        self.spawn(self._leave(by))

    async def _leave(self, by: str) -> None:
        await asyncio.sleep(0.1)  # the answer to whoever said so goes out first
        await self._forget(by)

    async def _forget(self, by: str) -> None:
        await self._close()
        self.state, self.document = None, None
        await self.host.leave(by)
        await asyncio.to_thread(lambda: bringing.remove(bringing.brought(self.files.directory)))
        await asyncio.to_thread(self.files.remove)
        await asyncio.to_thread(self.departure.done)

    async def change_state(self, edit: Callable[[ClusterState], ClusterState]) -> None:
        """Changes the shared state here; the others hear of it with `changed` or the next greeting."""
        async with self._state_lock:
            if self.state is None:
                return
            state = edit(self.state)
            if state is not self.state:
                await asyncio.to_thread(self.files.save, state)
                self.state = state

    async def take_state(self, other: ClusterState) -> None:
        """Takes a newer shared state over. Raises PorticoError when it cannot be kept."""
        await self.change_state(lambda own: merge_states(own, other))

    async def _lead(self) -> None:
        """What one server does for all."""
        if not self.leads():
            return
        if self.acts_for_all() and not self.distribution.busy:
            now = now_utc()
            before = self.state
            await self.change_state(lambda state: state.rotated(now))
            if self.state is not before:
                log.info("heartbeat_key=%d made", self.state.keys[0].number if self.state is not None else 0)
                await self.changed()

    # Certificates and clients

    def take_tickets(self, theirs: tuple[TicketKey, ...]) -> bool:
        return keep_tickets(self, theirs)

    async def refresh_gateway(self) -> None:
        """Gives the gateway what came in, and closes tunnels of clients that were revoked elsewhere."""
        closed = await self.host.refresh_revoked()
        if closed:
            log.warning("revoked elsewhere: closed=%d", closed)

    async def answer(self, request: Request) -> Response:
        """A request from a remote computer; see `Enrolling.answer`."""
        return await self.enrolling.answer(request)

    async def own_sessions(self) -> list[dict[str, Any]]:
        return await self.host.own_sessions()

    async def sessions(self) -> list[dict[str, Any]]:
        """The tunnels of the other servers, each with its `server`; a server that does not answer has none."""
        found = await self.links.each(
            self.links.reachable(), lambda link: link.caller.get("/v1/clients", seconds=GREETING_SECONDS)
        )
        every: list[dict[str, Any]] = []
        for name, data in found.items():
            if isinstance(data, dict):
                rows = messages.items(data, "sessions", limit=1_000_000)
                every += [{**row, "server": name} for row in rows if isinstance(row, dict)]
        return every

    async def disconnect_here(self, name: str) -> int:
        return await self.host.disconnect_here(name)

    async def disconnect(self, name: str) -> int:
        """Closes a client's tunnels on the other servers."""
        found = await self.links.each(
            self.links.reachable(), lambda link: link.caller.post("/v1/clients/disconnect", {"name": name})
        )
        return sum(messages.number(data, "closed") for data in found.values() if isinstance(data, dict))

    async def command(self, server: str, name: str) -> None:
        """start, stop, drain, suspend or resume of another server.

        Raises:
            NotFound: there is no such server.
            PeerUnreachable: it does not answer; nothing is known about what it did.
            Conflict: it makes no sense there now.
        """
        link = self.links.get(server)
        if link is None:
            raise NotFound(
                f"There is no server {server} to {name}",
                why="the cluster has no other server of this name",
                resolution="List them with: portico lb servers",
                code="NO_SUCH_SERVER",
            )
        await link.caller.post("/v1/cluster/command", {"command": name})

    def require_cluster(self) -> tuple[ClusterState, LoadBalancing, tuple[str, int]]:
        """The state, the section and this server's listener. Raises NotFound, Unavailable."""
        balancing = self.document.load_balancing if self.document is not None else None
        if self.state is None or balancing is None:
            raise self.problem or NotFound(
                "Load balancing is not enabled",
                why="this server serves alone",
                resolution="Enable it: portico lb enable --internet-dedicated-address ADDRESS/LENGTH",
                code="LB_DISABLED",
            )
        if self._listener is None or self._place is None:
            raise self.problem or Unavailable("This server does not listen for others")
        return self.state, balancing, (self._place[0], self._listener.bound[1] if self._listener.bound else 0)
