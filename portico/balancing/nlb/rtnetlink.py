"""Messages to the kernel's rtnetlink as bytes (rtnetlink(7)), for what pyroute2 has no words for."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_EXCL_CREATE = 0x600
_ERROR, _DONE = 2, 3
_KIND_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_RECEIVED = 1 << 16
_TIMEOUT = 10.0


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Values by kind; what is cut off is left out."""
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= size <= len(data):
            break
        found[kind & _KIND_MASK] = data[_ATTRIBUTE.size : size]
        data = data[size + -size % 4 :]
    return found


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What one datagram of the kernel has: kinds and bodies; what is cut off is left out."""
    while len(data) >= _HEADER.size:
        size, kind, _, _, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= size <= len(data):
            break
        yield kind, data[_HEADER.size : size]
        data = data[size + -size % 4 :]


def change(kind: int, body: bytes, *, create: bool) -> None:
    """Has the kernel do something. Raises OSError: it refuses."""
    list(_ask(kind, _REQUEST | _ACK | (_EXCL_CREATE if create else 0), body))


def dump(kind: int, body: bytes) -> Iterator[bytes]:
    """The bodies of what the kernel lists. Raises OSError."""
    return _ask(kind, _REQUEST | _DUMP, body)


def _ask(kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.bind((0, 0))
        kernel.settimeout(_TIMEOUT)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            for answer, message in messages(kernel.recv(_RECEIVED)):
                if answer == _ERROR:
                    (code,) = struct.unpack_from("=i", message)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                if answer == _DONE:
                    return
                yield message
