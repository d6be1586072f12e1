"""The sockets the gateway serves from, opened by the agent and kept across the gateway's deaths."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from portico.errors import Conflict, NotPermitted, PorticoError, Unavailable

_SO_BINDTODEVICE = 25
_IPV6_FREEBIND = 78
_BACKLOG = 4096
_FIRST_WORD = 5
"""Seconds that a connection stays with the kernel, where it costs neither descriptor nor a place among the handshakes,
until its first bytes have come. Whoever is slower is handed over without."""


@dataclass(frozen=True)
class SocketPlan:
    """Where clients are listened for. Two equal plans need no new sockets."""

    interface: str
    port: int
    workers: int


@dataclass
class Sockets:
    """Open listeners, one per worker."""

    plan: SocketPlan
    interface_index: int
    listeners: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        for item in self.listeners:
            item.close()
        self.listeners.clear()

    def current(self, plan: SocketPlan) -> bool:
        """Whether these serve a plan: the same one, and its interface was not replaced by another of its name."""
        return self.plan == plan and self.interface_index == _index(plan.interface)


@dataclass
class DnsSockets:
    """DNS64's sockets on its address; none while it is disabled. They can change under a running gateway."""

    address: IPv6Address | None
    udp: list[socket.socket] = field(default_factory=list)
    tcp: list[socket.socket] = field(default_factory=list)

    @classmethod
    def open(cls, address: IPv6Address | None) -> DnsSockets:
        """Raises Unavailable, Conflict, NotPermitted, each naming the address."""
        opened = cls(address)
        if address is not None:
            with ExitStack() as undo:
                opened.udp = [_dns(address, socket.SOCK_DGRAM, undo)]
                opened.tcp = [_dns(address, socket.SOCK_STREAM, undo)]
                undo.pop_all()
        return opened

    def close(self) -> None:
        for item in (*self.udp, *self.tcp):
            item.close()
        self.udp, self.tcp = [], []


def open_sockets(plan: SocketPlan) -> Sockets:
    """Listens for IP-HTTPS on the Internet interface only, one socket per worker.

    A socket bound to an interface follows that interface's addresses as they change, IPv4 and IPv6, and leaves the port
    free for others on the intranet's side.

    Raises:
        Unavailable, Conflict, NotPermitted: named by port or address.
    """
    opened = Sockets(plan, _index(plan.interface))
    if opened.interface_index == 0:
        raise Unavailable(
            f"Cannot listen on {plan.interface}",
            why="there is no such interface",
            resolution="Correct server.internet_interface, or bring the interface up",
        )
    with ExitStack() as undo:
        undo.callback(opened.close)
        opened.listeners = [_listener(plan, undo) for _ in range(plan.workers)]
        undo.pop_all()
    return opened


def _listener(plan: SocketPlan, undo: ExitStack) -> socket.socket:
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        keep = undo.enter_context(_CloseOnError(listener))
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, plan.interface.encode() + b"\0")
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, _FIRST_WORD)
        listener.bind(("::", plan.port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        raise _refused(f"TCP port {plan.port} on {plan.interface}", plan.port, error) from None
    return keep


def _dns(address: IPv6Address, kind: int, undo: ExitStack) -> socket.socket:
    try:
        server = socket.socket(socket.AF_INET6, kind)
        keep = undo.enter_context(_CloseOnError(server))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The gateway still holds the sockets before these when others are opened.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # The address may come and go with the device.
        server.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        server.bind((str(address), 53))
        if kind == socket.SOCK_STREAM:
            server.listen(_BACKLOG)
        server.setblocking(False)
    except OSError as error:
        raise _refused(f"port 53 of {address}", 53, error) from None
    return keep


class _CloseOnError:
    """Closes a socket when the stack it is on unwinds; does nothing when the stack was emptied."""

    def __init__(self, item: socket.socket) -> None:
        self.item = item

    def __enter__(self) -> socket.socket:
        return self.item

    def __exit__(self, *_: object) -> None:
        self.item.close()


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _refused(what: str, port: int, error: OSError) -> PorticoError:
    text = f"Cannot listen on {what}"
    why = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NotPermitted(text, why=why, resolution="Run as root")
    if error.errno == 98:  # EADDRINUSE
        return Conflict(text, why=why, resolution=f"Find who has it: ss -lntup 'sport = :{port}'", code="PORT_IN_USE")
    return Unavailable(text, why=why, resolution="Check the interface and its addresses: ip addr")
