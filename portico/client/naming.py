"""Brings the machine's names under the Name Resolution Policy Table, and keeps them there.

The resolver runs in every mode but `none`; what differs is how the machine comes to ask it: /etc/resolv.conf, or
systemd-resolved's routing domains.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from portico.client import resolved
from portico.client.identity import ClientSettings, LocalSettings, server_of
from portico.client.resolv_conf import ResolvConf, ResolvConfFile, parse
from portico.client.resolver.core import Resolver
from portico.client.resolver.server import ResolverServer, random_below
from portico.errors import PorticoError
from portico.files import read_file
from portico.naming.nrpt import Table

log = logging.getLogger("portico.client.naming")

Mode = Literal["resolved", "resolv_conf", "none"]

_POLL = 1.0
_STEADY = 0.05
"""Seconds for which a file that somebody else writes must stay as it is before it is taken over."""
_STEADY_LOOKS = 20


class Naming:
    """The resolver and the machine's way to it.

    Args:
        file: the machine's resolv.conf.
        interface: the tunnel's name, for systemd-resolved.
        on_change: called when the machine's own resolvers are others than before.
    """

    def __init__(
        self,
        file: ResolvConfFile,
        interface: str,
        local: LocalSettings,
        *,
        port: int = 53,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.mode: Mode = "none"
        self.problem = ""
        self.core = Resolver(Table([]), random=random_below, fallback=local.name_query_fallback)
        self.server = ResolverServer(self.core, addresses=local.resolver_addresses, port=port)
        self._file = file
        self._interface = interface
        self._local = local
        self._settings: ClientSettings | None = None
        self._seen: object = None
        self._on_change = on_change
        self._inside = False

    async def start(self, settings: ClientSettings) -> None:
        """Starts the resolver, then lets the machine ask it.

        Raises:
            PorticoError: the resolver cannot listen or the machine cannot be told; nothing is left behind.
        """
        self._adopt(settings)
        if self._local.dns == "none":
            self.mode = "none"
            return
        current = self._file.upstream()
        self.mode = "resolv_conf" if self._local.dns != "resolved" else "resolved"
        if self._local.dns == "auto" and resolved.is_in_charge(current.nameservers):
            self.mode = "resolved"
        await self.server.start()
        try:
            self._follow()
            await self._point()
        except PorticoError:
            await self.stop()
            raise

    async def change(self, settings: ClientSettings) -> None:
        """Takes new settings of the server while running. Raises PorticoError."""
        self._adopt(settings)
        if self.mode == "resolv_conf" or (self.mode == "resolved" and not self._inside):
            await self._point()

    async def set_inside(self, inside: bool) -> None:
        """Inside, no rule counts: every name is asked where the machine asks anyway ([MS-GPNRPT], location).

        Raises PorticoError when the machine cannot be told.
        """
        self._inside = inside
        if self._settings is None:
            return
        self._adopt(self._settings)
        if self.mode == "resolved" and inside:
            try:
                await resolved.revert(self._interface)
            except PorticoError as error:  # it forgets them with the link, which goes away next
                log.info("%s", error)
        elif self.mode == "resolved":
            await self._point()

    def upstream(self) -> tuple[str, ...]:
        """The machine's own resolvers, also where names are not brought under the table. Reads a file."""
        if self.mode != "none":
            return self.core.outside
        try:
            return self._file.upstream().nameservers
        except PorticoError as error:
            log.warning("%s", error)
            return ()

    async def stop(self) -> None:
        """Gives the machine its own resolvers back, then stops ours. Raises PorticoError when the first fails."""
        try:
            if self.mode == "resolv_conf":
                self._file.give_back()
            elif self.mode == "resolved":
                try:
                    await resolved.revert(self._interface)
                except PorticoError as error:  # it forgets them with the link, which goes away next
                    log.info("%s", error)
        finally:
            self.mode = "none"
            await self.server.stop()

    async def keep(self) -> None:
        """Follows changes of the machine's own resolvers until cancelled."""
        while True:
            await asyncio.sleep(_POLL)
            await self.look()

    async def look(self) -> None:
        """Takes over again what somebody else has written meanwhile, and asks the resolvers it names from now on."""
        if self.mode == "none":
            return
        try:
            if self._signature() == self._seen:
                return
            if self.mode == "resolv_conf" and not self._file.is_ours():
                await self._written()
                log.info("%s was written by something else; it is taken over again", self._file.path)
                await self._point()
            self._follow()
            self.problem = ""
        except PorticoError as error:
            if self.problem != str(error):
                log.error("%s", error)
            self.problem = str(error)

    async def _written(self) -> None:
        """Waits, about a second at most, until the file is steady and names a server.

        Programs that write it in place empty it first: one that is replaced in between loses what they write next.
        """
        seen = self._signature()
        for _ in range(_STEADY_LOOKS):
            await asyncio.sleep(_STEADY)
            now = self._signature()
            if now == seen and self._file.upstream().nameservers:
                return
            seen = now

    def outside(self) -> tuple[str, ...]:
        """The machine's own resolvers."""
        return self.core.outside

    def _adopt(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.core.policy = Table([]) if self._inside else settings.table()
        self.core.exempt = frozenset({server_of(settings.url)[0].lower()})

    async def _point(self) -> None:
        assert self._settings is not None
        domain = self._settings.domain
        if self.mode == "resolved":
            namespaces = [rule.namespace for rule in self._settings.table().rules if not rule.exemption]
            await resolved.apply(self._interface, self.server.address, namespaces, domain)
        elif self.mode == "resolv_conf" and self._file.take(address=self.server.address, search=[domain]):
            log.info("resolv_conf=%s points to %s", self._file.path, self.server.address)

    def _follow(self) -> None:
        self._seen = self._signature()
        found = self._upstream()
        # Only where it listens itself: on its other addresses may be a resolver that this computer had before.
        servers = tuple(server for server in found.nameservers if server != self.server.address)
        if servers != self.core.outside:
            log.info("outside_resolvers=%s", ",".join(servers) or "none")
            self.core.outside = servers
            self._on_change()

    def _upstream(self) -> ResolvConf:
        if self.mode == "resolved":
            try:
                return parse(read_file(resolved.upstream_file()).decode("utf-8", "surrogateescape"))
            except PorticoError as error:
                log.warning("%s", error)
                return ResolvConf()
        return self._file.upstream()

    def _signature(self) -> object:
        if self.mode == "resolved":
            return _stat(resolved.upstream_file())
        return self._file.signature()


def _stat(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return (found.st_ino, found.st_mtime_ns, found.st_size)
