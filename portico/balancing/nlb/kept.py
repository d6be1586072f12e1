"""Routes and addresses of an interface, kept as the kernel's own messages and given back to it byte for byte (as
`ip route save` does): whatever an administrator can say about one survives, also what this file knows nothing of."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

# linux/netlink.h and linux/rtnetlink.h
_NEW_ROUTE, _GET_ROUTE, _NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS, _ERROR, _DONE = 24, 26, 20, 21, 22, 2, 3
_REQUEST, _ACK, _CREATE, _EXCL, _DUMP = 1, 4, 0x400, 0x200, 0x300
_PROTOCOL_KERNEL = 2
_FLAGS_KEPT = 4  # RTNH_F_ONLINK; the others are the kernel's observations
_OIF, _MULTIPATH, _CACHEINFO = 4, 9, 12
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ADDRESS = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_ATTRIBUTE = struct.Struct("=HH")


def routes(index: int) -> list[bytes]:
    """The routes through an interface, except those that come with addresses and come again with them.

    Raises:
        OSError: the kernel does not list them.
    """
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            _send(netlink, _GET_ROUTE, _DUMP, body)
            found += [route for message in _answers(netlink) if (route := _through(message, index)) is not None]
    return found


def restore_routes(index: int, before: list[bytes]) -> None:
    """Adds those of the former routes that are missing.

    Raises:
        OSError: the kernel refuses one.
    """
    after = set(routes(index))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        for route in before:
            if route not in after:
                _add(netlink, _NEW_ROUTE, route)


def addresses(index: int) -> list[tuple[IPv4Interface | IPv6Interface, bytes]]:
    """The addresses of an interface with their messages, in the kernel's order. The first IPv4 address of a network is
    its primary one, which the machine's own packets come from.

    Raises:
        OSError: the kernel does not list them.
    """
    found: list[tuple[IPv4Interface | IPv6Interface, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            _send(netlink, _GET_ADDRESS, _DUMP, _ADDRESS.pack(family, 0, 0, 0, 0))
            for message in _answers(netlink):
                if _ADDRESS.unpack_from(message)[4] == index:
                    found.append((_address(message), message))
    return found


def give_back(index: int, saved: list[bytes], address: IPv4Interface | IPv6Interface) -> None:
    """Puts one of the saved addresses back, in the place it had among those of its network.

    Raises:
        OSError: the kernel refuses.
    """
    former = [(item, message) for message in saved if (item := _address(message)).network == address.network]
    now = [(item, message) for item, message in addresses(index) if item.network == address.network]
    present = [item for item, _ in now]
    if address in present:
        return
    wanted = [(item, message) for item, message in former if item == address or item in present]
    wanted += [(item, message) for item, message in now if item not in [kept for kept, _ in wanted]]
    # Addresses are only ever added at the end, so those behind this one step aside.
    behind = wanted[[item for item, _ in wanted].index(address) + 1 :]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        for _, message in behind:
            _send(netlink, _DELETE_ADDRESS, _ACK, message)
            list(_answers(netlink))
        for message in [message for item, message in wanted if item == address] + [message for _, message in behind]:
            _add(netlink, _NEW_ADDRESS, message)


def _address(message: bytes) -> IPv4Interface | IPv6Interface:
    _, length, _, _, _ = _ADDRESS.unpack_from(message)
    values = dict(_attributes(message[_ADDRESS.size :]))
    value = values.get(_IFA_LOCAL, values[_IFA_ADDRESS])
    return ip_interface((value, length))


def _add(netlink: socket.socket, kind: int, message: bytes) -> None:
    _send(netlink, kind, _ACK | _CREATE | _EXCL, message)
    try:
        list(_answers(netlink))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def _send(netlink: socket.socket, kind: int, flags: int, body: bytes) -> None:
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)


def _answers(netlink: socket.socket) -> Iterator[bytes]:
    """The bodies of the messages up to the end, which an acknowledgement is too."""
    while True:
        data = netlink.recv(1 << 17)
        while len(data) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            body = data[_HEADER.size : length]
            if kind == _DONE:
                return
            if kind == _ERROR:
                number = -struct.unpack_from("=i", body)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return
            yield body
            data = data[(length + 3) & ~3 :]


def _through(message: bytes, index: int) -> bytes | None:
    """The message without what only describes its present state; None when it is another interface's or the
    kernel's."""
    family, dst, src, tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(message)
    if protocol == _PROTOCOL_KERNEL:
        return None
    kept, here = b"", False
    for number, value in _attributes(message[_ROUTE.size :]):
        if number == _OIF:
            here |= struct.unpack("=I", value)[0] == index
        if number == _MULTIPATH:
            here |= index in _hops(value)
        if number != _CACHEINFO:
            padding = bytes(-len(value) % 4)
            kept += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), number) + value + padding
    if not here:
        return None
    return _ROUTE.pack(family, dst, src, tos, table, protocol, scope, kind, flags & _FLAGS_KEPT) + kept


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, number = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield number, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def _hops(data: bytes) -> set[int]:
    """The interfaces of a multipath route (struct rtnexthop)."""
    found = set()
    while len(data) >= 8:
        length, _, _, index = struct.unpack_from("=HBBi", data)
        if length < 8:
            break
        found.add(index)
        data = data[(length + 3) & ~3 :]
    return found
