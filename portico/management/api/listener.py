"""The API on the network: TLS on the intranet's side, bounded in connections, following the settings in force."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from portico.administration.limits import place
from portico.errors import NotPermitted, PorticoError, Unavailable
from portico.management.api.connection import ApiProtocol
from portico.server.agent import Agent
from portico.settings.effective import Effective
from portico.settings.model import Settings

log = logging.getLogger("portico.api")

MAXIMUM_CONNECTIONS: Final = 256
MAXIMUM_OF_ONE: Final = 32
"""Connections of one address (IPv6: one /64)."""
HANDSHAKE_SECONDS: Final = 5.0
LOOK: Final = 1.0
RENEWAL_LOOK: Final = 3600.0
_SO_BINDTODEVICE: Final = 25
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Plan:
    """Where the API listens, and the names of its certificate.

    Attributes:
        device: the only interface that requests may come through; None: any.
    """

    addresses: tuple[Address, ...]
    port: int
    device: str | None
    names: tuple[str, ...]
    named_addresses: tuple[Address, ...]
    imported: tuple[Path, Path] | None = None
    """Files of a certificate and its key, instead of one of the administration's CA."""


def plan(settings: Settings | None, values: Effective | None) -> Plan | None:
    """None while it does not listen. Pure.

    Args:
        settings: as this server reads them, see `portico.settings.localise`.
    """
    if settings is None or settings.management.state == "disabled":
        return None
    server, given = settings.server, tuple(settings.management.listen)
    own: list[Address] = []
    entry = settings.load_balancing.server(server.name) if settings.load_balancing is not None else None
    if entry is not None:
        own += [address.ip for address in entry.internal_dedicated_addresses]
    elif values is not None and values.internal_ipv4 is not None:
        own.append(values.internal_ipv4)
    chosen = given or tuple(own)
    if not chosen:
        return None
    one = server.internet_interface == server.internal_interface
    certificate, key = settings.management.certificate_file, settings.management.key_file
    return Plan(
        imported=(Path(certificate), Path(key)) if certificate is not None and key is not None else None,
        addresses=chosen,
        port=settings.management.port,
        device=None if given or one else server.internal_interface,
        names=(server.name, f"{server.name}.{settings.deployment.domain}"),
        named_addresses=tuple(dict.fromkeys(a for a in (*own, *given) if not a.is_unspecified)),
    )


class ApiListener:
    """Listens as the settings in force say. What fails is told as `problem` and tried again; it stops nothing else.

    Attributes:
        refused: connections by reason.
        places: where it listens.
    """

    def __init__(self, agent: Agent, config: Config) -> None:
        self._agent = agent
        self._config = config
        self._state = ServerState()
        self._context: ssl.SSLContext | None = None
        self._plan: Plan | None = None
        self._digest = ""
        self._renewed = float("-inf")
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._open: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.problem: PorticoError | None = None

    @property
    def places(self) -> list[tuple[str, int]]:
        return [sock.getsockname()[:2] for sock in self._sockets]

    def start(self) -> None:
        """Makes the application ready to be served."""
        if not self._config.loaded:
            self._config.load()

    async def run(self) -> None:
        """Follows the settings until it is cancelled."""
        self.start()
        try:
            while True:
                await self.follow()
                await asyncio.sleep(LOOK)
        finally:
            await self.close()

    async def follow(self) -> None:
        """Makes sockets and certificate fit the settings in force. Never fails; see `problem`."""
        agent = self._agent
        wanted = plan(agent.platform.settings, agent.platform.values)
        try:
            if wanted is None:
                await self._unlisten()
            else:
                await self._certify(wanted)
                if wanted != self._plan or not self._sockets:
                    await self._unlisten()
                    self._listen(wanted)
                    log.info("api=listening places=%s", self.places)
            self._plan, self.problem = wanted, None
        except PorticoError as error:
            if str(error) != str(self.problem):
                log.error("%s", error)
            self.problem = error

    async def close(self) -> None:
        """Ends at once."""
        await self._unlisten()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _certify(self, wanted: Plan) -> None:
        authority, now = self._agent.access.authority, time.monotonic()
        digest = await asyncio.to_thread(authority.digest)
        same = self._plan is not None and self._plan.names == wanted.names
        same = same and self._plan is not None and self._plan.named_addresses == wanted.named_addresses
        same = same and self._plan is not None and self._plan.imported == wanted.imported
        if wanted.imported is not None:
            # Its owner renews it by exchanging the files.
            digest += await asyncio.to_thread(_state_of, wanted.imported)
        if self._context is not None and same and digest == self._digest and now - self._renewed < RENEWAL_LOOK:
            return

        def make() -> ssl.SSLContext:
            if wanted.imported is not None:
                authority.ensure(self._agent.access.now())  # administrators' certificates are of it in any case
                return authority.context(*wanted.imported)
            path = authority.server_certificate(wanted.names, wanted.named_addresses, self._agent.access.now())
            return authority.context(path)

        self._context = await asyncio.to_thread(make)
        if wanted.imported is None:
            digest = authority.digest()
        self._digest, self._renewed = digest, now

    def _listen(self, wanted: Plan) -> None:
        try:
            for address in wanted.addresses:
                self._sockets.append(_socket(address, wanted.port, wanted.device))
        except OSError as error:
            self._close_sockets()
            reason = error.strerror or str(error)
            raise Unavailable(
                f"The API cannot listen on {address} port {wanted.port}",
                why=reason,
                resolution=f"Look who has the port: ss -ltnp 'sport = :{wanted.port}'; or change management.port",
                code="MANAGEMENT_LISTENER",
            ) from None
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in self._sockets]

    async def _unlisten(self) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._accepting = []
        self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL):
                    return
                self.refused["cannot accept"] += 1
                await asyncio.sleep(0.1)  # out of descriptors: the ones that are open end first
                continue
            where = place(str(peer[0]))
            if self._open.total() >= MAXIMUM_CONNECTIONS or self._open[where] >= MAXIMUM_OF_ONE:
                self.refused["too many connections"] += 1
                connection.close()
                continue
            self._open[where] += 1
            task = asyncio.create_task(self._serve(connection, where))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket, where: str) -> None:
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        transport: Any = None

        def protocol() -> ApiProtocol:
            made = ApiProtocol(self._config, self._state, {})
            made.ended = gone.set
            return made

        try:
            transport, _ = await loop.connect_accepted_socket(
                protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
            )
            await gone.wait()
        except (OSError, TimeoutError):  # an SSLError is an OSError
            self.refused["broken or slow handshake"] += 1
            connection.close()
        finally:
            if transport is not None and not gone.is_set():
                transport.abort()
            self._open[where] -= 1
            if self._open[where] <= 0:
                del self._open[where]


def _state_of(files: tuple[Path, Path]) -> str:
    """Tells whether files were exchanged. Raises NotPermitted: others may read the key; Unavailable: one is missing."""
    found = []
    for path in files:
        try:
            seen = path.stat()
        except OSError as error:
            raise Unavailable(
                f"The API's certificate cannot be used: {path}",
                why=error.strerror or str(error),
                resolution="Put the file there on every server, or clear management.certificate_file and key_file",
                code="MANAGEMENT_CERTIFICATE",
            ) from None
        found.append((seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_mode))
    if found[1][3] & 0o077:
        raise NotPermitted(
            f"The key of the API's certificate is not used: {files[1]}",
            why="others than its owner may read the file",
            resolution=f"chmod 600 {files[1]}",
            code="MANAGEMENT_CERTIFICATE",
        )
    return repr(found)


def _socket(address: Address, port: int, device: str | None) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if device is not None:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode() + b"\0")
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # a DIP may come a moment later
        sock.bind((str(address), port))
        sock.listen(64)
        sock.setblocking(False)
        undo.pop_all()
    return sock
