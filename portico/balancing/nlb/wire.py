"""Ethernet frames of address resolution: ARP (RFC 826), neighbour discovery (RFC 4861) and what they stand on.

Parsers return None for everything that is not exactly the message; they never raise on foreign bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from portico.balancing.nlb.mac import ipv6_group_mac

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
BROADCAST = b"\xff" * 6
UNKNOWN = bytes(6)
ALL_NODES = IPv6Address("ff02::1")
ANY_IPV4 = IPv4Address(0)
UNSPECIFIED = IPv6Address(0)

_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER = 1, 2
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20


@dataclass(frozen=True)
class Arp:
    """An ARP packet of Ethernet and IPv4."""

    operation: Literal[1, 2]
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address

    def frame(self, destination: bytes, source: bytes) -> bytes:
        head = struct.pack("!HHBBH", 1, IPV4, 6, 4, self.operation)
        body = self.sender_mac + self.sender.packed + self.target_mac + self.target.packed
        return ethernet(destination, source, ARP, head + body)


@dataclass(frozen=True)
class Solicitation:
    """A neighbour solicitation (RFC 4861 section 4.3). A source of `::` is duplicate address detection."""

    source: IPv6Address
    destination: IPv6Address
    target: IPv6Address
    link_layer: bytes | None

    def frame(self, destination: bytes, source: bytes) -> bytes:
        option = b"" if self.link_layer is None else bytes([_SOURCE_LINK_LAYER, 1]) + self.link_layer
        body = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + self.target.packed + option
        return ethernet(destination, source, IPV6, icmpv6(self.source, self.destination, body))


@dataclass(frozen=True)
class Advertisement:
    """A neighbour advertisement (RFC 4861 section 4.4)."""

    source: IPv6Address
    destination: IPv6Address
    target: IPv6Address
    link_layer: bytes | None
    router: bool = False
    solicited: bool = False
    override: bool = True

    def frame(self, destination: bytes, source: bytes) -> bytes:
        flags = _ROUTER * self.router | _SOLICITED * self.solicited | _OVERRIDE * self.override
        option = b"" if self.link_layer is None else bytes([_TARGET_LINK_LAYER, 1]) + self.link_layer
        body = struct.pack("!BBHB3x", _ADVERTISEMENT, 0, 0, flags) + self.target.packed + option
        return ethernet(destination, source, IPV6, icmpv6(self.source, self.destination, body))


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return destination + source + struct.pack("!H", ethertype) + payload


def icmpv6(source: IPv6Address, destination: IPv6Address, body: bytes) -> bytes:
    """An IPv6 packet with hop limit 255 around an ICMPv6 message whose checksum field is zero."""
    total = checksum(source.packed + destination.packed + struct.pack("!II", len(body), _ICMPV6) + body)
    head = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + source.packed + destination.packed
    return head + body[:2] + struct.pack("!H", total) + body[4:]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def parse_arp(frame: bytes) -> Arp | None:
    """The ARP packet of a frame; None when it is something else or damaged."""
    if len(frame) < 42 or frame[12:22] != b"\x08\x06\x00\x01\x08\x00\x06\x04\x00" + frame[21:22]:
        return None
    operation = frame[21]
    if operation not in (1, 2):
        return None
    return Arp(
        1 if operation == 1 else 2,
        frame[22:28],
        IPv4Address(frame[28:32]),
        frame[32:38],
        IPv4Address(frame[38:42]),
    )


def parse_neighbour(frame: bytes) -> Solicitation | Advertisement | None:
    """The neighbour solicitation or advertisement of a frame, checked as RFC 4861 sections 7.1.1 and 7.1.2 demand."""
    if len(frame) < 78 or frame[12:14] != b"\x86\xdd" or frame[14] >> 4 != 6 or frame[20] != _ICMPV6:
        return None
    length, hop_limit = int.from_bytes(frame[18:20], "big"), frame[21]
    source, destination = IPv6Address(frame[22:38]), IPv6Address(frame[38:54])
    body = frame[54 : 54 + length]
    if length < 24 or len(body) != length or hop_limit != 255 or body[1] != 0:
        return None
    if body[0] not in (_SOLICITATION, _ADVERTISEMENT):
        return None
    pseudo = source.packed + destination.packed + struct.pack("!II", length, _ICMPV6)
    if checksum(pseudo + body) != 0:
        return None
    target = IPv6Address(body[8:24])
    options = _options(body[24:])
    if options is None or target.is_multicast:
        return None
    if body[0] == _SOLICITATION:
        link_layer = options.get(_SOURCE_LINK_LAYER)
        if source == UNSPECIFIED and (link_layer is not None or destination.packed[:13] != _SOLICITED_NODES):
            return None
        return Solicitation(source, destination, target, link_layer)
    flags = body[4]
    if destination.is_multicast and flags & _SOLICITED:
        return None
    return Advertisement(
        source,
        destination,
        target,
        options.get(_TARGET_LINK_LAYER),
        router=bool(flags & _ROUTER),
        solicited=bool(flags & _SOLICITED),
        override=bool(flags & _OVERRIDE),
    )


_SOLICITED_NODES = bytes.fromhex("ff0200000000000000000001ff")


def group_frame(message: Solicitation | Advertisement, source: bytes) -> bytes:
    """A message to a multicast group, framed for it."""
    return message.frame(ipv6_group_mac(message.destination), source)


def _options(data: bytes) -> dict[int, bytes] | None:
    """Link-layer address options by type; None when an option has no length or is cut."""
    found: dict[int, bytes] = {}
    while data:
        if len(data) < 2 or data[1] == 0 or len(data) < data[1] * 8:
            return None
        if data[0] in (_SOURCE_LINK_LAYER, _TARGET_LINK_LAYER) and data[1] == 1:
            found.setdefault(data[0], data[2:8])
        data = data[data[1] * 8 :]
    return found
