"""Tells when addresses, links, routes, rules or nftables changed, whoever changed them.

Only that something changed is taken from netlink; what it is, the next observation says. So a lost or overflowing
message costs nothing but a look.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("portico.reconcile")

_NETLINK_ROUTE = 0
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
# linux/rtnetlink.h: link, IPv4 address, route, rule, IPv6 address, route, rule
_ROUTE_GROUPS = (1, 5, 7, 8, 9, 11, 19)
_NFTABLES_GROUPS = (7,)  # linux/netfilter/nfnetlink.h


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
        for _ in range(256):  # leave the loop to others in a storm
            try:
                channel.recv(65_536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: messages were lost, so something changed
                break
        if self._timer is None or self._timer.when() <= asyncio.get_running_loop().time():
            self._timer = asyncio.get_running_loop().call_later(self._settle, self._changed)
