"""Tells when addresses, links, routes, rules or nftables changed, whoever changed them.

Only that something changed is taken from netlink; what it is, the next observation says. So a lost or overflowing
message costs nothing but a look.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

log = logging.getLogger("portico.reconcile")

_NETLINK_ROUTE = 0
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
# linux/rtnetlink.h: link, IPv4 address, route, rule, IPv6 address, route, rule
_ROUTE_GROUPS = (1, 5, 7, 8, 9, 11, 19)
_NFTABLES_GROUPS = (7,)  # linux/netfilter/nfnetlink.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_NFTABLES = 10
# linux/netfilter/nf_tables.h: elements of sets come and go, and each transaction ends with a new generation.
_ROUTINE = frozenset({_NFTABLES << 8 | kind for kind in (12, 14, 15)})
"""What other programs do all the time. No set of ours has elements that come and go, so no drift begins with it; what
does, the periodic look finds."""


class Monitor:
    """Calls `changed` in the event loop after every burst of netlink messages."""

    def __init__(self, changed: Callable[[], None], settle: float = 0.1) -> None:
        self._changed = changed
        self._settle = settle
        self._sockets: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Subscribes. A kernel without nf_tables messages leaves the periodic look."""
        loop = asyncio.get_running_loop()
        for protocol, groups in ((_NETLINK_ROUTE, _ROUTE_GROUPS), (_NETLINK_NETFILTER, _NFTABLES_GROUPS)):
            try:
                channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
                channel.setblocking(False)
                channel.bind((0, 0))
                for group in groups:
                    channel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            except OSError as error:
                log.warning("netlink_protocol=%d cannot be watched: %s", protocol, error)
                continue
            loop.add_reader(channel.fileno(), self._readable, channel)
            self._sockets.append(channel)

    def stop(self) -> None:
        loop = asyncio.get_running_loop()
        for channel in self._sockets:
            loop.remove_reader(channel.fileno())
            channel.close()
        self._sockets.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _readable(self, channel: socket.socket) -> None:
        changed = False
        for _ in range(256):  # leave the loop to others in a storm
            try:
                changed |= worth_a_look(channel.recv(65_536))
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: messages were lost, so something changed
                changed = True
                break
        if changed and (self._timer is None or self._timer.when() <= asyncio.get_running_loop().time()):
            self._timer = asyncio.get_running_loop().call_later(self._settle, self._changed)


def worth_a_look(datagram: bytes) -> bool:
    """Whether any of the netlink messages could be about something that Portico manages. Pure."""
    while len(datagram) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(datagram)
        if kind not in _ROUTINE or length < _HEADER.size:
            return True
        datagram = datagram[(length + 3) & ~3 :]
    return False
