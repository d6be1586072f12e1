"""Addresses and routes as the kernel's own messages, so that what was taken away can be given back bit by bit.

The body of a dumped message, sent again, makes the same object (as `ip addr save` and `ip route save` rely on): labels,
lifetimes, metrics, several next hops and whatever a later kernel adds, without a list of attributes here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from pyroute2 import IPRoute

RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE = 20, 21, 24, 25
CREATE, EXCLUSIVE, REPLACE = 0x400, 0x200, 0x100
_REQUEST_ACK = 0x1 | 0x4
_HEADER = struct.Struct("=IHHII")
_ERROR = 2

ADDRESS_HEADER, ROUTE_HEADER = 8, 12
"""Sizes of ifaddrmsg and rtmsg, before the attributes."""

_RTA_OIF, _RTA_PREFSRC, _RTA_MULTIPATH, _RTA_CACHEINFO, _RTA_TABLE = 4, 7, 9, 12, 15
_ROUTE_STATE = 0x1 | 0x10 | 0x8 | 0x40
"""RTNH_F_DEAD, LINKDOWN, OFFLOAD and TRAP: what the kernel says about a route, not what was asked for."""
_CLONED = 0x200
_LOCAL_TABLE = 255
_PROTO_KERNEL, _PROTO_RA = 2, 9


def body(message: Any) -> bytes:
    """The body of a message that pyroute2 received."""
    start = message.offset
    return bytes(message.data[start + _HEADER.size : start + message["header"]["length"]])


def send(kind: int, flags: int, content: bytes) -> None:
    """One request and its acknowledgement.

    Raises:
        OSError: with the kernel's error number.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as channel:
        channel.bind((0, 0))
        channel.settimeout(10)
        channel.send(_HEADER.pack(_HEADER.size + len(content), kind, _REQUEST_ACK | flags, 1, 0) + content)
        answer = channel.recv(65_536)
    _, answered, _, _, _ = _HEADER.unpack_from(answer)
    number = struct.unpack_from("=i", answer, _HEADER.size)[0] if answered == _ERROR else -errno.EPROTO
    if number:
        raise OSError(-number, os.strerror(-number))


def attributes(content: bytes, header: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute."""
    at = header
    while at + 4 <= len(content):
        length, kind = struct.unpack_from("=HH", content, at)
        if length < 4:
            return
        yield kind & 0x3FFF, content[at + 4 : at + length]
        at += (length + 3) & ~3


def attribute(content: bytes, header: int, kind: int) -> bytes | None:
    return next((value for found, value in attributes(content, header) if found == kind), None)


def routes_of(ip: IPRoute, family: int, index: int) -> list[bytes]:
    """The routes that leave through an interface, in every table but the local one."""
    found = []
    for message in ip.get_routes(family=family):
        if (message.get_attr("RTA_TABLE") or message["table"]) == _LOCAL_TABLE or message["flags"] & _CLONED:
            continue
        hops = message.get_attr("RTA_MULTIPATH") or ()
        if message.get_attr("RTA_OIF") == index or any(hop["oif"] == index for hop in hops):
            found.append(body(message))
    return found


def source_of(route: bytes) -> bytes | None:
    """The preferred source address (`src`), packed."""
    return attribute(route, ROUTE_HEADER, _RTA_PREFSRC)


def made_by_itself(route: bytes) -> bool:
    """Whether the kernel makes the route for an address, or a router advertised it."""
    return route[5] in (_PROTO_KERNEL, _PROTO_RA)


def with_source(route: bytes, source: bytes) -> bytes:
    """The route with another preferred source address of the same family."""
    return _rebuilt(route, {_RTA_PREFSRC: source})


def same_route(route: bytes) -> bytes:
    """A form in which two dumps of one route are equal, whatever happened to it in between."""
    flags = struct.unpack_from("=I", route, 8)[0] & ~_ROUTE_STATE
    return route[:8] + struct.pack("=I", flags) + _rebuilt(route, {}, ordered=True)[ROUTE_HEADER:]


def scope_of(route: bytes) -> int:
    """Larger scopes lead to nearer hosts: those routes come first, gateways are found through them."""
    return route[6]


def add_route(route: bytes, flags: int) -> None:
    """Raises OSError."""
    send(RTM_NEWROUTE, CREATE | flags, _rebuilt(route, {}))


def _rebuilt(route: bytes, values: dict[int, bytes], *, ordered: bool = False) -> bytes:
    """Without what the kernel reports about its use, with some values replaced, without dead marks."""
    flags = struct.unpack_from("=I", route, 8)[0] & ~_ROUTE_STATE
    parts = [
        (kind, values.get(kind, value)) for kind, value in attributes(route, ROUTE_HEADER) if kind != _RTA_CACHEINFO
    ]
    if ordered:
        parts.sort()
    packed = b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in parts
    )
    return route[:8] + struct.pack("=I", flags) + packed
