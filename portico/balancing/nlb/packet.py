"""A packet socket on one interface: frames in and out, and what the interface's filter lets through while it is open.

Needs CAP_NET_RAW and AF_PACKET. Memberships (a second unicast MAC, a multicast MAC, promiscuous mode) are counted by
the kernel and end with the socket, however the process ends: nothing of the administrator's can be lost by undoing
them.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from typing import Literal

from portico.errors import NotPermitted, PorticoError, Unavailable

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_SO_ATTACH_FILTER = 26
_KINDS = {"multicast": 0, "promiscuous": 1, "unicast": 3}

_BATCH = 64
"""Frames taken at once, so that a flood of questions does not keep the loop from anything else."""

_VLAN_PRESENT = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_LD_ABS_B, _LD_ABS_H, _JEQ, _RET = 0x30, 0x28, 0x15, 0x06

Instruction = tuple[int, int, int, int]

ADDRESS_RESOLUTION: tuple[Instruction, ...] = (
    (_LD_ABS_B, 0, 0, _VLAN_PRESENT),
    (_JEQ, 0, 10, 0),  # tagged frames belong to another interface
    (_LD_ABS_H, 0, 0, 12),
    (_JEQ, 7, 0, 0x0806),
    (_JEQ, 0, 7, 0x86DD),
    (_LD_ABS_B, 0, 0, 20),
    (_JEQ, 0, 5, 58),
    (_LD_ABS_B, 0, 0, 54),
    (_JEQ, 2, 0, 135),
    (_JEQ, 1, 0, 136),
    (_RET, 0, 0, 0),
    (_RET, 0, 0, 0xFFFF),
    (_RET, 0, 0, 0),
)
"""ARP and neighbour discovery."""

IGMP: tuple[Instruction, ...] = (
    (_LD_ABS_B, 0, 0, _VLAN_PRESENT),
    (_JEQ, 0, 5, 0),
    (_LD_ABS_H, 0, 0, 12),
    (_JEQ, 0, 3, 0x0800),
    (_LD_ABS_B, 0, 0, 23),
    (_JEQ, 0, 1, 2),
    (_RET, 0, 0, 0xFFFF),
    (_RET, 0, 0, 0),
)


class PacketSocket:
    """An open packet socket, non-blocking.

    Attributes:
        mac: the interface's own hardware address.
    """

    def __init__(self, interface: str, accept: Sequence[Instruction]) -> None:
        """Opens it with a classic BPF filter.

        Raises:
            NotPermitted, Unavailable: naming the interface.
        """
        self.interface = interface
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            try:
                self._index = socket.if_nametoindex(interface)
                self._attach(accept)
                self._socket.setblocking(False)
                self._socket.bind((interface, 3))  # ETH_P_ALL
                self.mac: bytes = self._socket.getsockname()[4]
            except BaseException:
                self._socket.close()
                raise
        except OSError as error:
            raise _failed(f"listen to frames on {interface}", error) from None
        self._groups: socket.socket | None = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept_mac(self, kind: Literal["unicast", "multicast", "promiscuous"], mac: bytes = b"") -> None:
        """Makes the interface hear frames for a MAC, as long as this socket is open. Raises Unavailable."""
        request = struct.pack("iHH8s", self._index, _KINDS[kind], len(mac), mac)
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
        except OSError as error:
            raise _failed(f"make {self.interface} hear {mac.hex(':') or 'everything'}", error) from None

    def join_ipv6(self, group: IPv6Address) -> None:
        """Joins a multicast group on the interface; the kernel reports it (MLD). Raises Unavailable."""
        try:
            if self._groups is None:
                self._groups = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            option = group.packed + struct.pack("@I", self._index)
            self._groups.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, option)
        except OSError as error:
            raise _failed(f"join {group} on {self.interface}", error) from None

    def receive(self) -> Iterator[bytes]:
        """At most 64 frames that others sent. Ends when nothing waits, or the interface went away."""
        for _ in range(_BATCH):
            try:
                frame, address = self._socket.recvfrom(2048)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # ENETDOWN once, when the interface went down; drift shows what happened to it
            if address[2] != 4:  # PACKET_OUTGOING
                yield frame

    def send(self, frames: Sequence[bytes]) -> int:
        """Sends what goes without waiting; returns how many frames did. A full queue loses the rest, as a network
        does."""
        sent = 0
        for frame in frames:
            try:
                self._socket.send(frame)
            except OSError:
                continue
            sent += 1
        return sent

    def close(self) -> None:
        self._socket.close()
        if self._groups is not None:
            self._groups.close()
            self._groups = None

    def _attach(self, program: Sequence[Instruction]) -> None:
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code))
        )


def _failed(what: str, error: OSError) -> PorticoError:
    why = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NotPermitted(f"Cannot {what}", why=why, resolution="It needs root (CAP_NET_RAW)")
    return Unavailable(f"Cannot {what}", why=why, resolution="Check that the interface is there: ip link")
