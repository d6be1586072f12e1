"""What the prober sends, and what an answer looks like on the wire.

question (UDP payload)   "Portico?" client u32 number u64 padding; an echo returns it, with a tag behind it if it likes
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

MAGIC = b"Portico?"
QUESTION = struct.Struct("!8sIQ")
SIZE = 64
"""Bytes of a question."""

_IPV4, _IPV6, _TCP, _UDP = 0x0800, 0x86DD, 6, 17
_ETHERNET = 14
_SYN, _ACK = 0x02, 0x10


def question(client: int, number: int) -> bytes:
    """The payload of one question."""
    return QUESTION.pack(MAGIC, client, number).ljust(SIZE, b"\0")


@dataclass(frozen=True)
class Echo:
    """An answered question: whose it was, and what the server put behind it."""

    client: int
    number: int
    tag: bytes = b""


def echo(payload: bytes) -> Echo | None:
    """What a payload answers; None when it is no echo of a question. A cut one has no tag."""
    if len(payload) < QUESTION.size or not payload.startswith(MAGIC):
        return None
    _, client, number = QUESTION.unpack_from(payload)
    return Echo(client, number, bytes(payload[SIZE:]))


@dataclass(frozen=True)
class Datagram:
    """A frame that answers a question of the prober."""

    client: int
    number: int


@dataclass(frozen=True)
class Segment:
    """A frame of a TCP connection, from the server.

    Attributes:
        flow: server address and port, client address and port.
        accepts: the acknowledgement number of a SYN-ACK, which names the client's SYN; None for other segments.
    """

    flow: tuple[str, int, str, int]
    accepts: int | None


def answer(frame: bytes) -> Datagram | Segment | None:
    """What an Ethernet frame (from its destination address on; its end may be missing) says to a client.

    None for everything that is neither TCP nor an echo of a question over UDP, and for fragments and frames too short
    to say.
    """
    if len(frame) < _ETHERNET + 20:
        return None
    kind = int.from_bytes(frame[12:14])
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    if kind == _IPV4:
        if int.from_bytes(frame[20:22]) & 0x1FFF:
            return None
        protocol, start = frame[23], _ETHERNET + (frame[14] & 15) * 4
        source, destination = IPv4Address(frame[26:30]), IPv4Address(frame[30:34])
    elif kind == _IPV6 and len(frame) >= _ETHERNET + 40:
        protocol, start = frame[20], _ETHERNET + 40
        source, destination = IPv6Address(frame[22:38]), IPv6Address(frame[38:54])
    else:
        return None
    transport = frame[start:]
    if protocol == _UDP:
        found = echo(transport[8:])
        return None if found is None else Datagram(found.client, found.number)
    if protocol != _TCP or len(transport) < 14:
        return None
    flow = (str(source), int.from_bytes(transport[0:2]), str(destination), int.from_bytes(transport[2:4]))
    accepted = transport[13] & (_SYN | _ACK) == _SYN | _ACK
    return Segment(flow, int.from_bytes(transport[8:12]) if accepted else None)
