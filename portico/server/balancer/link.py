"""How heartbeats travel: as broadcast frames on each load-balanced interface, and as datagrams between dedicated
addresses. One object a path, all alike. Needs CAP_NET_RAW and AF_PACKET for frames.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from portico.cluster.wire import ETHERTYPE, MAX_FRAME
from portico.errors import NotPermitted, PorticoError, Unavailable

Address = IPv4Address | IPv6Address

_SIOCGIFHWADDR = 0x8927
_BROADCAST = b"\xff" * 6
_BATCH = 128
"""Frames taken at once: a flood must not keep the loop from its own heartbeats."""
_FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}


class PathLink(Protocol):
    """One path. `failed` counts frames that could not be sent."""

    failed: int

    def fileno(self) -> int: ...

    def send(self, data: bytes) -> None: ...

    def receive(self) -> Iterator[bytes]:
        """What waits, at most a batch."""
        ...

    def close(self) -> None: ...


class FrameLink:
    """Ethernet frames of type 0x886F to everybody on one interface's network.

    Raises:
        NotPermitted, Unavailable: naming the interface.
    """

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self.failed = 0
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHERTYPE))
            try:
                self._socket.setblocking(False)
                self._socket.bind((interface, ETHERTYPE))
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise _failed(f"send heartbeats on {interface}", error) from None

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, (self.interface, ETHERTYPE, 0, 0, _BROADCAST))
        except OSError:
            self.failed += 1  # the interface is down or gone: the others notice our silence, and we theirs

    def receive(self) -> Iterator[bytes]:
        for _ in range(_BATCH):
            try:
                # A byte more than the longest frame: what is longer must not be read as if it were whole.
                data, source = self._socket.recvfrom(MAX_FRAME + 1)
            except OSError:
                return
            if source[2] != 4:  # PACKET_OUTGOING
                yield data

    def close(self) -> None:
        self._socket.close()


class DatagramLink:
    """UDP from this server's dedicated address to the others'. Whoever else sends is not heard.

    Raises:
        NotPermitted, Unavailable: naming the address.
    """

    def __init__(self, own: Address, port: int, others: Iterable[Address]) -> None:
        self.failed = 0
        self._own = own
        self._port = port
        self.readdress(others)
        family = socket.AF_INET if own.version == 4 else socket.AF_INET6
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            try:
                self._socket.setblocking(False)
                # The one before is open until this one is.
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                # The address may come later than this socket, and go for a moment when the settings change.
                self._socket.setsockopt(*_FREEBIND[own.version], 1)
                self._socket.bind((str(own), port))
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise _failed(f"send heartbeats from {own}, UDP port {port}", error) from None

    def readdress(self, others: Iterable[Address]) -> None:
        """Sends to these from now on, and hears only them."""
        self._others = [str(address) for address in others if address.version == self._own.version]

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        for address in self._others:
            try:
                self._socket.sendto(data, (address, self._port))
            except OSError:
                self.failed += 1

    def receive(self) -> Iterator[bytes]:
        for _ in range(_BATCH):
            try:
                data, source = self._socket.recvfrom(MAX_FRAME + 1)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about something we sent to a server that is off
            if source[0] in self._others:
                yield data

    def close(self) -> None:
        self._socket.close()


def _failed(what: str, error: OSError) -> PorticoError:
    why = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NotPermitted(f"Cannot {what}", why=why, resolution="It needs root (CAP_NET_RAW)")
    return Unavailable(f"Cannot {what}", why=why, resolution="Check the interface and its addresses: ip addr")


def interface_mac(interface: str) -> bytes:
    """An interface's own hardware address. Raises Unavailable."""
    try:
        # netdevice(7), not /sys: what is mounted there may show the interfaces of another namespace.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            found = fcntl.ioctl(asking, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()))
        return found[18:24]
    except (OSError, struct.error) as error:
        raise Unavailable(
            f"The hardware address of {interface} cannot be read", why=str(error), resolution="ip link"
        ) from None
