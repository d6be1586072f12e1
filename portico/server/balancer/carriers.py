"""Whether network cards have a carrier, told as it changes: the kernel says so by rtnetlink within milliseconds, long
before the silence of a cable that is out is noticed. Needs no privileges.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterator, Sequence

from portico.balancing.nlb import rtnetlink
from portico.errors import Unavailable

log = logging.getLogger("portico.balancer")

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_IFLA_IFNAME = 3
_LOWER_UP = 0x10000
_LINK = struct.Struct("=BxHiII")
_RECEIVED = 1 << 16
_BATCH = 64


def carrier(kind: int, body: bytes) -> tuple[str, bool] | None:
    """A card and whether it has a carrier, from a message about a link; None: it is about something else. Pure."""
    if kind not in (_RTM_NEWLINK, _RTM_DELLINK) or len(body) < _LINK.size:
        return None
    family, _, _, flags, _ = _LINK.unpack_from(body)
    name = rtnetlink.attributes(body[_LINK.size :]).get(_IFLA_IFNAME)
    if family != socket.AF_UNSPEC or name is None:  # of a bridge: that a card is no port of it any more
        return None
    text = name.rstrip(b"\0").decode(errors="replace")
    return text, kind == _RTM_NEWLINK and bool(flags & _LOWER_UP)


class Carriers:
    """
    Args:
        interfaces: by number.
        changed: gets the number of one, and whether it has a carrier; of all of them after the first look.

    Raises:
        Unavailable: the kernel does not tell.
    """

    def __init__(self, interfaces: Sequence[str], changed: Callable[[int, bool], None]) -> None:
        self._numbers = {interface: number for number, interface in enumerate(interfaces)}
        self._changed = changed
        self._up: dict[str, bool] = {}
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            try:
                self._socket.setblocking(False)
                self._socket.bind((0, _RTMGRP_LINK))
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise Unavailable(
                "The carrier of network cards cannot be watched", why=error.strerror or str(error)
            ) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def look(self) -> None:
        """Asks the kernel for all of them. One that is not there has no carrier."""
        found = dict.fromkeys(self._numbers, False)
        try:
            for body in rtnetlink.dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
                told = carrier(_RTM_NEWLINK, body)
                if told is not None and told[0] in found:
                    found[told[0]] = told[1]
        except OSError as error:  # then silence tells, later
            log.warning("the network cards cannot be listed: %s", error)
            return
        for interface, up in found.items():
            self._take(interface, up)

    def readable(self) -> None:
        """Something was told."""
        for _ in range(_BATCH):
            try:
                data = self._socket.recv(_RECEIVED)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # more was told than we read: what is true now makes up for it
                    self.look()
                return
            for interface, up in _told(data):
                self._take(interface, up)

    def close(self) -> None:
        self._numbers.clear()
        self._socket.close()

    def _take(self, interface: str, up: bool) -> None:
        if interface in self._numbers and self._up.get(interface) != up:
            self._up[interface] = up
            self._changed(self._numbers[interface], up)


def _told(data: bytes) -> Iterator[tuple[str, bool]]:
    for kind, body in rtnetlink.messages(data):
        found = carrier(kind, body)
        if found is not None:
            yield found
