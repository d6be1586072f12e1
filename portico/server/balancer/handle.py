"""What the agent has of the balancer: settings in, health and tunnels in, events and status out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from portico.child import Begun, Program, Start
from portico.connected import Door
from portico.errors import Conflict, NotFound, PorticoError, Unavailable
from portico.server.balancer.boots import Boots
from portico.server.balancer.explaining import packet
from portico.server.balancer.plans import Assignment, assignment
from portico.server.balancer.tunnels import owner_of
from portico.server.cluster_secrets import ClusterSecrets
from portico.settings.model import Settings
from portico.spawned import launch
from portico.supervisor import ChildError, ChildState, Supervisor

log = logging.getLogger("portico.balancer")

Address = IPv4Address | IPv6Address

USER = "portico-balancer"
UNIT = "portico-balancer.service"
MODULE = "portico.server.balancer.process"
START_TIMEOUT = 15.0
_BATCH = 1000
"""Events of tunnels told at a time."""
_RESYNC = 30.0
"""Seconds between full lists of the tunnels: what events lost, this finds."""


_FORWARDED: dict[str, Callable[[dict[str, Any]], list[Any]]] = {
    "session_up": lambda event: [event["session"], event["peer"], owner_of(event.get("identity"))],
    "session_address": lambda event: [event["session"], event["address"]],
    "session_down": lambda event: [event["session"]],
    "gateway_started": lambda _event: [],
}
"""Events of the gateway that matter here, with what of them does."""


_LIVES = {"MemberJoined": True, "MemberLeft": False}
"""Events of the cluster that say of a host whether it is there."""


class Kin:
    """Starts children under the agent's own account; they give away themselves what they do not need.

    They outlive the agent by the moment that it takes to say goodbye to the other servers, so nothing ends them with
    it but the end of their channel.
    """

    awaited = ""
    unit: str | None = None

    async def available(self) -> None:
        """Always."""

    async def begin(self, program: Program, start: Start) -> Begun:
        """Raises OSError: no process can be had."""
        return await launch((), program, start)


class Balancer:
    """The agent's handle. Does nothing while load balancing is not configured.

    Args:
        sessions: the gateway's tunnels, each {session, addresses, identity, ...}.
        disconnect: closes tunnels of the gateway by number.
        spawn: runs a coroutine in the background and keeps it from being collected.
        boots: numbers for the process' starts.
        door: where the balancer of the unit connects; None starts it under the agent's account.

    Attributes:
        heard: gets a server's name and whether heartbeats find it alive, at each change; the name is empty and the
            answer None when there are no heartbeats any more.
    """

    def __init__(
        self,
        sessions: Callable[[], Awaitable[list[dict[str, Any]]]],
        disconnect: Callable[[list[int]], Awaitable[int]],
        spawn: Callable[[Awaitable[None]], None],
        boots: Boots,
        door: Door | None = None,
    ) -> None:
        self._sessions = sessions
        self._disconnect = disconnect
        self._spawn = spawn
        self._boots = boots
        self.door = door
        self.heard: Callable[[str, bool | None], None] = lambda _name, _alive: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: Assignment | None = None
        self._given: Assignment | None = None
        """What the newest process was started with."""
        self._health: tuple[bool, str] = (False, "the gateway has not said that it serves")
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=65_536)
        self._resync = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        program = Program("balancer", MODULE, heartbeat="status", heartbeat_interval=2.0, heartbeat_timeout=5.0)
        self.supervisor = Supervisor(program, self._prepare, self._event, self._changed, source=door or Kin())

    @property
    def configured(self) -> bool:
        return self._told is not None

    def open(self) -> None:
        """Lets the unit's process connect; it waits until it is needed. Raises Unavailable."""
        self._loop = asyncio.get_running_loop()
        if self.door is not None:
            self.door.open()

    def close(self) -> None:
        """After `stop`."""
        if self.door is not None:
            self.door.close()

    def process(self) -> dict[str, Any]:
        """State of the process, for `portico server status`. Without load balancing one of a unit waits, and none runs
        otherwise."""
        watched = self.supervisor
        reason = watched.reason
        if self.door is not None and watched.state is ChildState.STOPPED:
            reason = self.door.awaited or "it has connected and waits until load balancing is enabled"
        return {**watched.status(), "reason": reason, "configured": self.configured}

    async def apply(self, local: Settings, revision: int, secrets: ClusterSecrets | None) -> None:
        """Balances as the settings say; stops when they do not.

        Raises:
            PorticoError: it cannot; what was before goes on.
        """
        if local.load_balancing is None:
            if self._told is not None:
                await self._tell("give_back")
            await self.stop()
            return
        if secrets is None:
            raise Unavailable(
                "Load balancing cannot begin",
                why="this server has no secrets of the cluster",
                resolution="Join it again: portico server join",
                code="CLUSTER_SECRETS_MISSING",
            )
        told = assignment(local, revision, secrets)
        if told == self._told and self.supervisor.state is ChildState.RUNNING:
            return
        former, self._told = self._told, told
        try:
            if self.supervisor.state is ChildState.RUNNING:
                await self.supervisor.request("configure", config=told.as_config())
            else:
                self.supervisor.start()
                await self.supervisor.wait_ready(START_TIMEOUT)
                if self._given != told:  # it was on its way already, to ask the link
                    await self.supervisor.request("configure", config=told.as_config())
        except PorticoError:
            self._told = former
            if former is None:
                await self.supervisor.stop()  # half a member would stay
            raise
        if self._pump is None:
            self._pump = asyncio.create_task(self._feed(), name="feed the balancer")

    async def stop(self) -> None:
        """Gives the buckets away and ends the process."""
        self._told = None
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
        await self.supervisor.stop()

    def ask_link(
        self, interface: str, addresses: Sequence[Address], ignored: Sequence[str] = ()
    ) -> Mapping[Address, str]:
        """Who else on an interface's network has these addresses, by the process that may ask.

        Blocking, and not for the loop's own thread. See `portico.server.facts.Prober`. A process that is no member of
        a cluster stays for the next question, or to become one.

        Raises:
            Unavailable: no process can be had, or it cannot ask.
        """
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._ask_link(interface, addresses, ignored), self._loop).result()

    async def _ask_link(
        self, interface: str, addresses: Sequence[Address], ignored: Sequence[str]
    ) -> Mapping[Address, str]:
        try:
            if self.supervisor.state is not ChildState.RUNNING:
                self.supervisor.start()
                await self.supervisor.wait_ready(START_TIMEOUT)
            texts = list(map(str, addresses))
            found = await self.supervisor.request(
                "ask_link", interface=interface, addresses=texts, ignored=list(ignored)
            )
        except PorticoError as error:
            raise Unavailable(
                f"It cannot be found out whether other machines on {interface} have the addresses for this server",
                why=error.why or error.what,
                resolution=error.resolution or f"Look at it: systemctl status {UNIT}",
                code="LINK_NOT_ASKED",
            ) from error
        return {ip_address(text): str(mac) for text, mac in found.items()}

    async def health(self, ok: bool, why: str = "") -> None:
        """Whether clients are served here; not told twice."""
        if (ok, why) == self._health:
            return
        self._health = (ok, why)
        await self._tell("health", ok=ok, why=why)

    def gateway_event(self, event: dict[str, Any]) -> None:
        """Takes an event of the gateway. Does not block; what does not fit is found by the next full list."""
        name = event.get("event")
        if self._told is None or name not in _FORWARDED:
            return
        if name == "gateway_started":
            self._resync.set()
            return
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._resync.set()

    async def command(self, name: str) -> None:
        """start, stop, drain, suspend or resume of this server.

        Raises:
            NotFound: load balancing is not configured.
            Conflict: it makes no sense now.
            Unavailable: the process does not run.
        """
        self._must_be_configured()
        try:
            await self.supervisor.request("command", name=name)
        except ChildError as error:
            raise Conflict(f"The server refuses to {name}", why=error.why) from None

    async def status(self) -> dict[str, Any]:
        """Everything about this server's part and the others as seen from here. Raises as `command`."""
        self._must_be_configured()
        found = await self.supervisor.request("status")
        return found if isinstance(found, dict) else {}

    async def explain(self, source: str, destination: str, protocol: str, *, established: bool) -> dict[str, Any]:
        """Which server takes a packet, and why (`explaining`). Raises InvalidInput, or as `command`."""
        self._must_be_configured()
        packet(source, destination, protocol, established=established)  # says what is wrong in its own words
        found = await self.supervisor.request(
            "explain", source=source, destination=destination, protocol=protocol, established=established
        )
        return found if isinstance(found, dict) else {}

    def _must_be_configured(self) -> None:
        if self._told is None:
            raise NotFound(
                "There is no cluster",
                why="load balancing is not enabled",
                resolution="Enable it: portico lb enable",
                code="NO_CLUSTER",
            )

    def _prepare(self) -> Start:
        self._given = self._told
        config = self._told.as_config() if self._told is not None else {}
        return Start({**config, "boot": self._boots.next()})

    def _changed(self, state: ChildState, reason: str) -> None:
        log.info("balancer=%s%s", state.value, f" reason={reason!r}" if reason else "")
        if state is ChildState.RUNNING:
            ok, why = self._health
            self._spawn(self._tell("health", ok=ok, why=why))
            self._resync.set()
        else:
            self.heard("", None)

    def _event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "disconnect":
            self._spawn(self._close([int(number) for number in event["sessions"]]))
            return
        if event.get("event") == "cluster" and event.get("kind") in _LIVES:
            self.heard(str(event["host"]), _LIVES[event["kind"]])
        # The process writes its own log; this is for whoever counts.
        log.debug("event=%s", event)

    async def _close(self, sessions: list[int]) -> None:
        try:
            await self._disconnect(sessions)
        except PorticoError as error:
            log.warning("tunnels that another server holds are not closed, it is tried again: %s", error)

    async def _tell(self, op: str, **fields: Any) -> None:
        if self.supervisor.state is not ChildState.RUNNING:
            return  # its successor is told everything
        try:
            await self.supervisor.request(op, **fields)
        except PorticoError as error:
            log.warning("balancer op=%s lost: %s", op, error)

    async def _feed(self) -> None:
        """Tells the balancer of tunnels, one after the other, and of all of them every now and then."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self._resync.is_set() or loop.time() >= due:
                self._resync.clear()
                while not self._queue.empty():
                    self._queue.get_nowait()
                with contextlib.suppress(PorticoError):
                    found = await self._sessions()
                    listed = [
                        (
                            int(one["session"]),
                            str(one["peer"]),
                            owner_of(one.get("identity")),
                            list(one.get("addresses", ())),
                        )
                        for one in found
                    ]
                    await self._tell("sessions", sessions=listed)
                due = loop.time() + _RESYNC
            try:
                async with asyncio.timeout(0.5):
                    event = await self._queue.get()
            except TimeoutError:
                continue
            events = [event]
            while len(events) < _BATCH and not self._queue.empty():
                events.append(self._queue.get_nowait())
            told = [[one["event"], *_FORWARDED[one["event"]](one)] for one in events]
            await self._tell("tunnels", events=told)
