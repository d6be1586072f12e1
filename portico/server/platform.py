"""Everything on this machine that serves one settings document: kernel, sockets, gateway. Made to fit, or put back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from portico.connected import Door
from portico.errors import Unavailable
from portico.server.credentials import Credentials, now_utc
from portico.server.desired import desired_kernel, kept_addresses
from portico.server.gateway import Gateway, Request, Response
from portico.server.handover import Handover
from portico.server.kept_files import KeptFiles
from portico.server.reconcile import sysctls
from portico.server.reconcile.kernel import FORWARD_IPV6, Kernel
from portico.server.reconcile.wanted import TRANSLATOR, TUNNEL, Change, Wanted
from portico.server.returned import Returned
from portico.server.sockets import DnsSockets, SocketPlan, Sockets, open_sockets
from portico.settings.effective import Effective
from portico.settings.model import Settings
from portico.supervisor import ChildError, Start
from portico.transition.gateway_config import build_gateway_config

log = logging.getLogger("portico.server")

LEDGER_NAME = "kernel.json"
START_TIMEOUT = 20.0


class Platform:
    """Kernel, sockets and gateway of one server. Its methods are called one at a time.

    Attributes:
        settings, values: what is in force, None before anything is.
    """

    def __init__(
        self,
        state: Path,
        credentials: Credentials,
        answer: Callable[[Request], Awaitable[Response]],
        spawn: Callable[[Awaitable[None]], None],
        watch: Callable[[dict[str, Any]], None] = lambda _event: None,
        door: Door | None = None,
    ) -> None:
        self.credentials = credentials
        self.kernel = Kernel(state / LEDGER_NAME)
        self.files = KeptFiles(state)
        self.returned = Returned(state)
        self.sockets: Sockets | None = None
        self.dns_sockets: DnsSockets | None = None
        self.handover: Handover | None = None
        self.settings: Settings | None = None
        self.values: Effective | None = None
        self.gateway = Gateway(self._start, answer, spawn, watch, door)
        self._config: dict[str, Any] = {}
        self._given: tuple[int, int] = (-1, -1)
        self._dns_given: DnsSockets | None = None

    def wanted(self, settings: Settings, values: Effective) -> Wanted:
        """The kernel that the settings mean on this machine. Blocking."""
        return desired_kernel(
            settings,
            values,
            closed=self.kernel.closed_families(settings.server.internal_interface),
            accepts_advertisements=self._accepting_interfaces(),
        )

    async def apply(self, settings: Settings, values: Effective) -> list[Change]:
        """Makes everything fit; returns what was changed in the kernel.

        The secrets come first: without a usable server certificate nothing is touched.

        Raises:
            PorticoError: what failed; part of it may have been done. The caller applies the former settings again.
        """
        secrets = await asyncio.to_thread(self.credentials.secrets, settings, now_utc())
        config = build_gateway_config(settings, values, secrets)
        wanted = await asyncio.to_thread(self.wanted, settings, values)
        changes = await asyncio.to_thread(self.kernel.reconcile, wanted)
        await asyncio.to_thread(self.files.adopt)
        if self.settings is None:
            await asyncio.to_thread(self.returned.note, settings, changes)
        self._open_sockets(settings, values)
        self.settings, self.values = settings, values
        await self._serve(config)
        return changes

    async def refresh(self) -> None:
        """Gives the gateway fresh secrets and revocations; a no-op when nothing changed.

        Raises:
            PorticoError: the gateway keeps what it had.
        """
        if self.settings is None or self.values is None:
            return
        secrets = await asyncio.to_thread(self.credentials.secrets, self.settings, now_utc())
        config = build_gateway_config(self.settings, self.values, secrets)
        if config != self._config:
            await self._serve(config)

    async def drift(self) -> list[Change]:
        """What differs from what is in force, by name.

        Raises:
            PorticoError: the machine cannot be looked at.
        """
        if self.settings is None or self.values is None:
            return []
        settings, values = self.settings, self.values

        def look() -> list[Change]:
            wanted = self.wanted(settings, values)
            return [*self.files.look(), *self.kernel.plan(wanted, self.kernel.observe(wanted))]

        changes = await asyncio.to_thread(look)
        if self.sockets is not None and not self.sockets.current(self._socket_plan(settings, values)):
            changes.append(Change("devices", "set", settings.server.internet_interface, after="a new interface"))
        return changes

    async def repair(self) -> list[Change]:
        """Puts kernel and files right again; the gateway is replaced only when its descriptors died."""
        if self.settings is None or self.values is None:
            return []
        put_back, unkept = await asyncio.to_thread(self.files.repair)
        wanted = await asyncio.to_thread(self.wanted, self.settings, self.values)
        changes = await asyncio.to_thread(self.kernel.reconcile, wanted)
        self._open_sockets(self.settings, self.values)
        await self._serve(self._config)
        if unkept is not None:
            raise unkept
        return [*put_back, *changes]

    async def stop(self) -> list[str]:
        """Stops serving and removes everything from the kernel; returns what could not be, in words.

        A server among others keeps its dedicated addresses: what its interfaces had before, the others have now.
        """
        await self.gateway.supervisor.stop()
        if self.sockets is not None:
            self.sockets.close()
            self.sockets = None
        if self.dns_sockets is not None:
            self.dns_sockets.close()
            self.dns_sockets = None
        if self.handover is not None:
            self.handover.close()
            self.handover = None
        kept = kept_addresses(self.settings) if self.settings is not None else ()
        return await asyncio.to_thread(self.kernel.undo, kept)

    async def _serve(self, config: dict[str, Any]) -> None:
        former, self._config = self._config, config
        supervisor = self.gateway.supervisor
        given = (self.kernel.generation, id(self.sockets))
        try:
            if not self.gateway.running:
                supervisor.start()
                await supervisor.wait_ready(START_TIMEOUT)
            elif given != self._given or config["workers"] != former.get("workers"):
                # Each worker has a queue and a listener of its own, which only a start hands over.
                self.gateway.restart("it needs other descriptors")
                await supervisor.wait_ended(START_TIMEOUT)
                await supervisor.wait_ready(START_TIMEOUT)
            else:
                await self._hand_dns_over()
                if config != former:
                    await self.gateway.configure(config)
        except ChildError:
            self._config = former
            raise
        except Unavailable:
            # Not known whether it took it: its successor certainly does. Revocations must not be lost here.
            self.gateway.restart("it did not take its configuration")
            raise
        self._given = given

    async def _hand_dns_over(self) -> None:
        """Gives the running gateway DNS64's sockets when they are others than it has: the tunnels live on."""
        dns = self.dns_sockets
        if dns is self._dns_given:
            return
        if self.handover is None or dns is None:
            raise Unavailable(
                "DNS64's sockets cannot be handed over", why="the gateway was started without a way for it"
            )
        token = self.handover.send([item.fileno() for item in (*dns.udp, *dns.tcp)])
        try:
            await self.gateway.ask("dns_sockets", token=token, udp=len(dns.udp))
        except ChildError as error:
            # It has given up the former ones: only a new process serves DNS64 again.
            raise Unavailable("The gateway did not take DNS64's sockets", why=error.why) from None
        self._dns_given = dns

    def _start(self) -> Start:
        devices = self.kernel.devices
        listeners = self.sockets.listeners if self.sockets is not None else []
        dns = self.dns_sockets if self.dns_sockets is not None else DnsSockets(None)
        if self.handover is None:
            self.handover = Handover()
        self.handover.discard()
        self._dns_given = self.dns_sockets
        fds = {
            "tunnel": list(devices[TUNNEL].fds) if TUNNEL in devices else [],
            "nat64": list(devices[TRANSLATOR].fds) if TRANSLATOR in devices else [],
            "listener": [item.fileno() for item in listeners],
            "dns_udp": [item.fileno() for item in dns.udp],
            "dns_tcp": [item.fileno() for item in dns.tcp],
            "handover": [self.handover.fd],
        }
        return Start(self._config, fds, _descriptors(self._config))

    def _socket_plan(self, settings: Settings, values: Effective) -> SocketPlan:
        return SocketPlan(settings.server.internet_interface, settings.ip_https.port, values.workers)

    def _open_sockets(self, settings: Settings, values: Effective) -> None:
        # The old ones stay until the new ones are open: a port that cannot be had must not cost the one we have.
        plan, dns, address = self._socket_plan(settings, values), self.dns_sockets, values.dns64_address
        if dns is None or dns.address != address:
            self.dns_sockets = DnsSockets.open(address)
            if dns is not None:
                dns.close()
        if self.sockets is None or not self.sockets.current(plan):
            fresh = open_sockets(plan)
            if self.sockets is not None:
                self.sockets.close()
            self.sockets = fresh

    def _accepting_interfaces(self) -> tuple[str, ...]:
        """Interfaces whose routes come from router advertisements, judged by what was there before Portico."""
        now = sysctls.observe([FORWARD_IPV6])
        if (self.kernel.ledger.before(FORWARD_IPV6) or now.get(FORWARD_IPV6)) != "0":
            return ()  # a machine that forwards already took its decision about advertisements itself
        found = []
        for entry in sorted(Path("/proc/sys/net/ipv6/conf").glob("*/accept_ra")):
            interface = entry.parent.name
            name = f"net/ipv6/conf/{interface}/accept_ra"
            value = self.kernel.ledger.before(name) or sysctls.observe([name]).get(name)
            if value == "1" and interface not in ("all", "default", "lo", TUNNEL, TRANSLATOR):
                found.append(interface)
        return tuple(found)


def _descriptors(config: Mapping[str, Any]) -> int:
    """What a gateway with this configuration may have open at once: a socket for each connection and for each DNS
    question to an upstream server, and some hundred for refused connections, devices and files."""
    iphttps, dns64 = config["iphttps"], config.get("dns64") or {}
    return int(iphttps["max_sessions"]) + int(iphttps["max_handshakes"]) + int(dns64.get("max_queries", 0)) + 1024
