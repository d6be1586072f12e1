"""The remote computer's agent: wants to be connected, and does what that takes.

It holds the identity, the TUN device, the resolver and the firewall; the child that dials holds nothing but the
connection. While the child redials, dies or is restarted, the device stays with its addresses and routes, so that inner
connections survive. On disconnect and on stop everything is taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from portico.certificates.issue import Identity
from portico.certificates.trust import common_name
from portico.client import device, enrol, firewall, network, server_address
from portico.client.account import ACCOUNT, account
from portico.client.assistance import Assistance, Line, as_status
from portico.client.assistant.report import Report
from portico.client.currency import Access, Currency
from portico.client.identity import (
    ClientFiles,
    ClientSettings,
    LocalSettings,
    Proxy,
    Wish,
    not_enrolled,
    server_of,
)
from portico.client.naming import Naming
from portico.client.resolv_conf import ResolvConfFile
from portico.client.status import (
    DEACTIVATED,
    ClientStatus,
    Facts,
    Failure,
    Status,
    Substatus,
    derive,
    interface_text,
)
from portico.client.surface.surface import Surface
from portico.client.users import User
from portico.connected import Door
from portico.errors import PorticoError, Unavailable
from portico.supervisor import ChildState, Program, Start, Supervisor

__all__ = ["ACCOUNT", "TUNNEL_UNIT", "ClientAgent"]

log = logging.getLogger("portico.client.agent")

TUNNEL_UNIT = "portico-tunnel.service"
RESOLV_CONF = Path("/etc/resolv.conf")
_RESOLVE_AGAIN = 15.0


class ClientAgent:
    """One enrolled (or not yet enrolled) computer.

    Args:
        files: its directory.
        resolv_conf: the machine's.
        door: where the tunnel process of the unit connects, open; None starts it as a child of this process.
    """

    def __init__(
        self,
        files: ClientFiles,
        *,
        resolv_conf: Path = RESOLV_CONF,
        resolver_port: int = 53,
        door: Door | None = None,
    ) -> None:
        self.files = files
        self._door = door
        self._resolv_conf = ResolvConfFile(resolv_conf, files.resolv_record)
        self._resolver_port = resolver_port
        self._turn = asyncio.Lock()
        self._problem = ""
        self._currency = Currency(self)
        self._settings: ClientSettings | None = None
        self._local = LocalSettings()
        self._identity: Identity | None = None
        self._trust = ""
        self._proxy: Proxy | None = None
        self._addresses: tuple[str, ...] = ()
        self._way: tuple[str, ...] = ()
        self._tunnel: device.Tunnel | None = None
        self._naming: Naming | None = None
        self._supervisor: Supervisor | None = None
        self._watch: network.Watch | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._link = ""
        self._peer = ""
        self._failure: Failure | None = None
        self._next_attempt: float | None = None
        self._since: float | None = None
        self._state = device.DeviceState()
        self._linked = asyncio.Event()
        self.user = User(self._ask_about_user, lambda: self._link == "link_up")
        self.surface = Surface()
        self._assistance: Assistance | None = None
        self._way_turn = asyncio.Lock()
        self._given: dict[str, Any] = {}
        """What the tunnel's process was started with."""
        self._wanted = True
        """The tunnel: not inside the corporate network."""
        self._ready = False
        """Everything is there that the tunnel's process needs."""

    async def start(self) -> None:
        """Takes back what a killed agent left, then connects unless told otherwise before."""
        await self.clean_up()
        async with self._turn:
            await self._begin()

    async def stop(self) -> None:
        """Disconnects without changing the wish."""
        async with self._turn:
            await self._end()

    async def clean_up(self) -> None:
        """Gives back resolv.conf and removes the firewall table and the policy rules, whoever left them."""
        for step in (
            asyncio.to_thread(self._resolv_conf.give_back),
            asyncio.to_thread(device.unprotect),
            firewall.remove(),
        ):
            try:
                await step
            except (PorticoError, OSError) as error:
                log.warning("%s", error)

    async def connect(self) -> None:
        """Wants to be connected from now on. Raises NotFound (NOT_ENROLLED) or why it cannot even try."""
        if not self.files.enrolled:
            raise not_enrolled()
        self.files.save("wish", Wish(connect=True))
        async with self._turn:
            if self._naming is None:
                await self._begin()
        if self._problem:
            raise Unavailable(
                "The tunnel cannot be opened",
                why=self._problem,
                resolution="See the whole state with: portico client status",
                code="NOT_CONNECTED",
            )

    async def disconnect(self) -> None:
        """Wants to be disconnected from now on, also after a restart."""
        self.files.save("wish", Wish(connect=False))
        async with self._turn:
            await self._end()

    async def reload(self) -> None:
        """Takes up a new identity or new choices: disconnects and, if wanted, connects."""
        async with self._turn:
            await self._end()
            await self._begin()

    async def redial(self, reason: str) -> None:
        """Dials anew at once, keeping the device."""
        supervisor = self._supervisor
        if self._assistance is not None:
            self._assistance.assistant.look_again()
        if supervisor is None:
            return
        log.info("redial reason=%r", reason)
        with contextlib.suppress(PorticoError):  # a child that is not running dials when it starts
            await supervisor.request("redial")
        self._run(self._resolve(), "resolve")

    async def renew(self) -> None:
        """Renews the certificate now. Raises PorticoError."""
        identity, trust, settings = self.files.identity(), self.files.trust(), self.files.settings()
        proxy = enrol.effective_proxy(self.files.local())
        key, chain = await asyncio.to_thread(enrol.renew, identity, trust, settings.url, proxy)
        self.files.save_identity(key, chain)
        self._identity = self.files.identity()
        log.info("certificate renewed expires=%s", self._identity.certificate.not_valid_after_utc.isoformat())
        await self._reconfigure()

    async def status(self) -> ClientStatus:
        """How it stands now."""
        if self._tunnel is not None and self._tunnel.is_open:
            self._state = await asyncio.to_thread(self._tunnel.state)
        wish, enrolled = self.files.wish().connect, self.files.enrolled
        identity, settings = (self._identity, self._settings) if enrolled else (None, None)
        if identity is None and enrolled:
            with contextlib.suppress(PorticoError):
                identity, settings = self.files.identity(), self.files.settings()
        facts = self._facts(enrolled, wish, identity)
        status, substatus = derive(facts)
        assistant = as_status(self._assistance)
        if assistant is not None:
            status, substatus = Status(assistant["status"]), Substatus(assistant["substatus"])
        naming, running = self._naming, self._supervisor
        problems = [
            self._problem,
            self._currency.problem,
            naming.problem if naming else "",
            self.surface.problem,
            *self.files.problems.values(),
        ]
        if running is not None and running.state is ChildState.WAITING:
            problems.append(f"The tunnel process died ({running.reason}); it is restarted")
        if running is not None and running.state is ChildState.STARTING and running.reason:
            problems.append(f"The tunnel process is missing: {running.reason}")
        now = time.time()
        level = self.user.known.at(now)
        return ClientStatus(
            status=status,
            substatus=substatus,
            transition_technology="IPHTTPS" if facts.link == "link_up" else "None",
            interface_status=interface_text(facts) if self._wanted else DEACTIVATED,
            link=facts.link or "disabled",
            wish="connect" if wish else "disconnect",
            name=(common_name(identity.certificate.subject) or "") if identity else "",
            server=settings.url if settings else "",
            peer=self._peer,
            proxy=self._proxy.url if self._proxy else "",
            addresses=self._state.addresses if self._tunnel else (),
            routes=self._state.routes if self._tunnel else (),
            since=self._since,
            bytes_in=self._state.bytes_in if self._tunnel else 0,
            bytes_out=self._state.bytes_out if self._tunnel else 0,
            last_error=self._failure,
            next_attempt=self._next_attempt if self._next_attempt and self._next_attempt > now else None,
            certificate_expires=identity.certificate.not_valid_after_utc.timestamp() if identity else None,
            settings_revision=settings.revision if settings else None,
            nrpt=tuple(settings.table().as_list()) if settings else (),
            dns_mode=naming.mode if naming else "none",
            resolver=naming.server.address if naming else "",
            outside_resolvers=naming.outside() if naming else (),
            queries=naming.server.counters() if naming else {},
            problems=tuple(problem for problem in problems if problem),
            restarts=running.restarts if running else 0,
            level=level.level,
            user=level.user,
            user_since=level.since,
            user_until=level.until,
            assistant=assistant or self.report().as_dict(),
        )

    def report(self) -> Report:
        """How it stands now, as every user of this computer may know it."""
        if self._assistance is not None:
            return self._assistance.assistant.report()
        said = derive(self._facts(self.files.enrolled, self.files.wish().connect, None))
        return self.surface.without_assistant(*said, self._problem)

    async def _ask_about_user(self, method: str, what: str, body: dict[str, str] | None) -> dict[str, Any]:
        identity, trust, settings = self.files.identity(), self.files.trust(), self.files.settings()
        proxy = enrol.effective_proxy(self.files.local())
        answer = await asyncio.to_thread(enrol.ask_about_user, identity, trust, settings.url, proxy, method, what, body)
        asyncio.get_running_loop().call_soon(self._poke)  # behind the caller, who takes the answer up
        return answer

    def _facts(self, enrolled: bool, wish: bool, identity: Identity | None) -> Facts:
        watch = self._watch
        valid = identity is None or datetime.now(UTC) < identity.certificate.not_valid_after_utc
        return Facts(
            enrolled=enrolled,
            wish=wish,
            link=self._link,
            addresses=self._state.addresses,
            reachable=any(path.usable for path in watch.paths) if watch is not None and watch.paths else None,
            failure=self._failure,
            problem=self._problem,
            certificate_valid=valid,
        )

    async def _begin(self) -> None:
        self._problem = ""
        if not self.files.enrolled or not self.files.wish().connect:
            return
        try:
            await self._up()
        except (PorticoError, OSError) as error:
            log.error("%s", error)
            await self._end()
            self._problem = str(error)
            self._run(self._try_again(), "try again")

    async def _try_again(self) -> None:
        """What kept the agent from trying (a file, a missing module, a busy port) may go away by itself."""
        await asyncio.sleep(15)
        async with self._turn:
            if self._naming is None:
                await self._begin()

    async def _up(self) -> None:
        files = self.files
        self._identity, self._trust, self._settings = files.identity(), files.trust(), files.settings()
        local = self._local = files.local()
        self._proxy = enrol.effective_proxy(local)
        tunnel = self._tunnel = device.Tunnel(secret=files.interface_secret(), default_router=local.default_router)
        await asyncio.to_thread(tunnel.open)
        await self._apply_firewall()
        naming = self._naming = Naming(
            self._resolv_conf, tunnel.name, local, port=self._resolver_port, on_change=self._on_resolvers
        )
        await naming.start(self._settings)
        self._addresses = files.known_addresses(server_of(self._settings.url)[0])
        self._assistance = Assistance(self, self._trust)
        self._assistance.assistant.on_change = self.surface.changed
        # Before the assistant looks for the first time, so that no change falls between the two.
        self._watch = network.Watch(lambda: self._way, self._on_network, self._on_any_change)
        self._run(self._watch.run(), "watch the network")
        self._run(self._assistance.assistant.run(), "assist")
        await self._resolve(first=True)
        self._ready = True
        if self._wanted:
            await self.bring_up()
        self._run(naming.keep(), "follow resolv.conf")
        self._run(self._keep_resolving(), "resolve the server")
        self._run(self._currency.keep(), "renew")
        self._run(self._await_address(), "await an address")
        self._run(self.user.keep(), "know the user's level")

    async def bring_up(self) -> None:
        """The tunnel's device and process, and the rules for names, unless they are there. See `assistance.Agent`."""
        async with self._way_turn:
            self._wanted = True
            tunnel, naming = self._tunnel, self._naming
            if not self._ready or self._supervisor is not None or tunnel is None or naming is None:
                return
            if not tunnel.is_open:
                # A device that a cancelled task left half made could not be closed.
                await _whole(asyncio.to_thread(tunnel.open))
                await naming.set_inside(False)
                self._run(self._resolve(), "resolve")  # what the name meant inside need not be what it means here
            user = account() if self._door is None else None
            program = Program("client tunnel", "portico.client.tunnel_process", user=user, heartbeat="status")
            self._supervisor = Supervisor(program, self._prepare, self._on_event, self._on_child, source=self._door)
            self._supervisor.start()

    async def hang_up(self) -> None:
        """Takes down what `bring_up` has brought: this computer is inside."""
        async with self._way_turn:
            self._wanted = False
            if self._naming is not None:
                await self._naming.set_inside(True)
            if self._supervisor is not None:
                await _whole(self._supervisor.stop())
                self._supervisor = None
            if self._tunnel is not None:
                self._tunnel.close()
            self._link = self._peer = ""
            self._failure = self._next_attempt = None
            self._state = device.DeviceState()
            self._lost()

    def line(self) -> Line:
        """See `assistance.Agent`."""
        level, up = self.user.known, self._link == "link_up" and bool(self._state.addresses)
        return Line(
            derive(self._facts(True, True, self._identity)), up, self._failure, level.level, level.authentication
        )

    def client_settings(self) -> ClientSettings:
        """Those in force."""
        assert self._settings is not None
        return self._settings

    def resolvers(self) -> tuple[str, ...]:
        """The machine's own."""
        return self._naming.upstream() if self._naming is not None else ()

    def problem(self, text: str) -> None:
        """What keeps the tunnel from being brought up; empty: nothing."""
        self._problem = text

    def _poke(self) -> None:
        if self._assistance is not None:
            self._assistance.assistant.poke()

    async def _end(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._assistance = None
        self._wanted, self._ready = True, False
        if self._supervisor is not None:
            await self._supervisor.stop()
            self._supervisor = None
        naming, self._naming = self._naming, None
        if naming is not None:
            try:
                await naming.stop()
            except PorticoError as error:
                log.error("%s", error)
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()
            await self.clean_up()
        self._watch = None
        self._link = self._peer = self._problem = ""
        self._failure = self._next_attempt = self._since = None
        self._state = device.DeviceState()
        self._linked.clear()
        self.surface.changed()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task=%r failed", task.get_name(), exc_info=error)

    async def _apply_firewall(self) -> None:
        assert self._settings is not None
        assert self._tunnel is not None
        inbound = self._local.inbound == "allow"
        script = firewall.render(self._tunnel.name, inbound=inbound, sources=self._settings.intranet_prefixes)
        await firewall.apply(script)

    def _config(self) -> dict[str, Any]:
        assert self._settings is not None
        assert self._identity is not None
        assert self._tunnel is not None
        return {
            "url": self._settings.url,
            "addresses": [] if self._proxy else list(self._addresses),
            "trust": self._trust,
            "certificate_chain": self._identity.chain_pem,
            "private_key": self._identity.key_pem,
            "proxy": self._proxy.as_config() if self._proxy else None,
            "link_local": self._tunnel.link_local,
            "segments": self._local.segments,
            "connect_timeout": 10.0,
        }

    def _prepare(self) -> Start:
        assert self._tunnel is not None
        self._given = self._config()
        return Start(self._given, {"tunnel": [self._tunnel.fd]})

    async def _reconfigure(self) -> None:
        if self._supervisor is not None and self._supervisor.state is ChildState.RUNNING:
            try:
                await self._supervisor.request("configure", config=self._config())
            except PorticoError as error:  # the child that dies of it starts with the new configuration
                log.warning("%s", error)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") != "state":
            log.info("tunnel event=%s", event)
            return
        now = time.time()
        before, self._link = self._link, str(event.get("state", ""))
        self._peer = str(event.get("peer") or "")
        error = event.get("error")
        if isinstance(error, dict):
            self._failure = Failure(int(error.get("code", 0)), str(error.get("text", "")), float(event.get("at", now)))
        wait = event.get("next_attempt_in")
        self._next_attempt = now + float(wait) if isinstance(wait, int | float) else None
        log.info("link=%s before=%s peer=%s error=%s", self._link, before, self._peer, error)
        if self._link == "link_up":
            if before != "link_up":
                self._since, self._failure, self._next_attempt = now, None, None
                self._currency.came_up.set()
                if self._state.addresses:
                    self._run(self._announce(), "announce the addresses")
            self._linked.set()
        else:
            self._lost()
        self._poke()

    def _on_child(self, state: ChildState, reason: str) -> None:
        if state is not ChildState.RUNNING:
            if self._link:
                log.info("child=%s reason=%r", state, reason)
            self._link = ""
            self._lost()
            self._poke()
        elif self._given != self._config():  # the server was found elsewhere while it started
            self._run(self._reconfigure(), "reconfigure")

    def _lost(self) -> None:
        self._since = None
        self._linked.clear()
        if self._naming is not None:
            self._naming.server.set_tunnel(False)

    async def _announce(self) -> None:
        try:
            await asyncio.to_thread(device.announce, self._state.addresses)
        except OSError as error:  # the first packet from here says the same
            log.warning("the addresses are not announced: %s", error)

    async def _await_address(self) -> None:
        """The tunnel carries packets once the router's advertisement has given it an address."""
        while True:
            await self._linked.wait()
            tunnel, naming = self._tunnel, self._naming
            if tunnel is None or naming is None:
                return
            self._state = await asyncio.to_thread(tunnel.state)
            if self._linked.is_set() and self._state.addresses:
                if not naming.core.tunnel:
                    log.info("connected addresses=%s", ",".join(self._state.addresses))
                    naming.server.set_tunnel(True)
                    self._poke()
                await asyncio.sleep(1.0)
            else:
                await asyncio.sleep(0.05)

    def _on_network(self, reason: str) -> None:
        if self._assistance is not None:
            self._assistance.assistant.changed(certainly=True)
        self._run(self.redial(reason), "redial")

    def _on_any_change(self) -> None:
        if self._assistance is not None:
            self._assistance.assistant.changed()
        self._run(self._look_around(), "look at the network")

    def _on_resolvers(self) -> None:
        if self._assistance is not None:
            self._assistance.assistant.changed()
        self._run(self._find_server(), "resolve")

    async def _look_around(self) -> None:
        if self._naming is not None:
            await self._naming.look()
            self._naming.core.private_network = await asyncio.to_thread(network.private_network)
        await self._find_server()

    async def _find_server(self) -> None:
        """A network that has just come up is the moment to look up a server that could not be found before."""
        if not self._addresses and self._link != "link_up" and self._wanted:
            await self._resolve()

    async def _keep_resolving(self) -> None:
        """The server may move; while there is no tunnel its name is looked up again and again."""
        while True:
            await asyncio.sleep(_RESOLVE_AGAIN)
            if self._link != "link_up" and self._wanted:
                await self._resolve()

    async def _resolve(self, *, first: bool = False) -> None:
        """Looks the server's name up outside the tunnel; keeps what was known when that fails."""
        assert self._settings is not None
        host, port = server_of(self._settings.url)
        dialled = (self._proxy.host, self._proxy.port) if self._proxy else (host, port)
        known = self._addresses
        found, failure = await server_address.find(
            self.files, host, dialled, known, by_proxy=self._proxy is not None, hurry=first
        )
        self._failure = failure or self._failure
        self._addresses = found
        if found != self._way:
            self._way = found
            try:
                await asyncio.to_thread(device.protect, found)
            except Exception as error:  # pyroute2 raises its own kinds; without the rules only a hostile route matters
                log.error("the way to the server cannot be kept out of the tunnel: %s", error)
            if self._watch is not None:
                await self._watch.look()
        if found != known and not first:
            await self._reconfigure()

    def access(self) -> Access:
        """See `currency.Agent`."""
        assert self._identity is not None
        expected = self._link == "link_up" or not self._wanted
        days = self._local.renew_before_days
        return Access(self._identity, self._trust, self._proxy, self.client_settings(), days, expected)

    async def adopt(self, settings: ClientSettings) -> None:
        """Takes up other settings of the server. Raises PorticoError."""
        moved = settings.url != self.client_settings().url
        self.files.save("settings", settings)
        self._settings = settings
        if self._naming is not None:
            await self._naming.change(settings)
        if self._tunnel is not None:
            await self._apply_firewall()
        self.adopt_revoked()
        if moved:
            await self._resolve()
            await self._reconfigure()

    def adopt_revoked(self) -> None:
        """Takes up a newer revocation list."""
        if self._assistance is not None:
            self._assistance.renew()


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Waits for work to end also when the task that waits is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
