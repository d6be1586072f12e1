"""Resets for connections of a dead server, where the kernel would stay silent.

A bucket that changed hands among living servers lately is quiet: what the kernel does not know there may be another
server's, and is dropped without a word. When one of those servers dies, its connections in such a bucket would get
nothing. But the directory knew them one by one, so exactly they are reset here, with the numbers that their own packets
carry (RFC 9293 section 3.10.7.1): packets are seen before the filter drops them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from portico.balancing.nlb.packet import Instruction
from portico.cluster.holdings import Outer

PATIENCE = 10.0
"""Seconds for which a connection of a dead server is watched for. Clients that are asked answer within a round trip."""
AGAIN = 0.2
"""Seconds after which a connection that was reset and goes on is reset again: the reset was lost. The shortest time
after which TCP repeats itself."""
RATE = 10_000
"""Resets a second, and at once: so many clients notice within a second. Whoever floods gets no more for it."""

_ETHERNET = 14
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_TCP = 6
_LD_ABS_B, _LD_ABS_H, _JEQ, _JGT, _JSET, _RET = 0x30, 0x28, 0x15, 0x25, 0x45, 0x06
_VLAN_PRESENT = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_SMALL = 80
"""Bytes of an IP packet without data: 40 or 60, and options. An answer to a question has none."""


def answers(port: int) -> tuple[Instruction, ...]:
    """Accepts small TCP segments to a port, of IPv4 without options and IPv6 without extension headers."""
    return (
        (_LD_ABS_B, 0, 0, _VLAN_PRESENT),
        (_JEQ, 0, 19, 0),
        (_LD_ABS_H, 0, 0, 12),
        (_JEQ, 0, 10, 0x0800),
        (_LD_ABS_B, 0, 0, 14),
        (_JEQ, 0, 15, 0x45),
        (_LD_ABS_B, 0, 0, 23),
        (_JEQ, 0, 13, _TCP),
        (_LD_ABS_H, 0, 0, 16),
        (_JGT, 11, 0, _SMALL),
        (_LD_ABS_H, 0, 0, 20),
        (_JSET, 9, 0, 0x1FFF),
        (_LD_ABS_H, 0, 0, 36),
        (_JEQ, 8, 7, port),
        (_JEQ, 0, 6, 0x86DD),
        (_LD_ABS_B, 0, 0, 20),
        (_JEQ, 0, 4, _TCP),
        (_LD_ABS_H, 0, 0, 18),
        (_JGT, 2, 0, _SMALL - 40),
        (_LD_ABS_H, 0, 0, 56),
        (_JEQ, 1, 0, port),
        (_RET, 0, 0, 0),
        (_RET, 0, 0, 0xFFFF),
    )


class Resets:
    """The connections that are watched for. Sans-IO: frames and `now` in, IP packets out.

    Args:
        limit: connections at most.
        rate: resets a second at most.

    Attributes:
        sent: resets.
        limited: not sent, as the connection had just got one, or too many others had.
    """

    def __init__(self, limit: int, rate: int = RATE) -> None:
        self.sent = 0
        self.limited = 0
        self._limit = limit
        self._rate = rate
        self._left, self._since = float(rate), 0.0
        self._watched: dict[tuple[bytes, int, bytes, int], float] = {}
        self._answered: dict[tuple[bytes, int, bytes, int], float] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, outers: Iterable[Outer], now: float) -> None:
        """Connections that are nobody's any more. What does not fit is left to the kernel."""
        for outer in outers:
            if len(self._watched) >= self._limit:
                return
            key = (outer.client.packed, outer.client_port, outer.vip.packed, outer.vip_port)
            self._watched[key] = now + PATIENCE

    def expire(self, now: float) -> None:
        """Forgets those that were watched for long enough."""
        if self._watched and now >= next(iter(self._watched.values())):
            self._watched = {key: until for key, until in self._watched.items() if now < until}
            self._answered = {key: when for key, when in self._answered.items() if key in self._watched}

    def answer(self, frame: bytes, ours: Callable[[Outer], bool], now: float) -> bytes | None:
        """The packet that ends a connection, for an Ethernet frame of it; None for everything else."""
        try:
            return self._answer(frame, ours, now)
        except (struct.error, IndexError, ValueError):
            return None

    def _answer(self, frame: bytes, ours: Callable[[Outer], bool], now: float) -> bytes | None:
        kind = frame[12:14]
        if kind == b"\x08\x00" and frame[14] == 0x45:
            source, target, start = frame[26:30], frame[30:34], _ETHERNET + 20
        elif kind == b"\x86\xdd" and frame[20] == _TCP:
            source, target, start = frame[22:38], frame[38:54], _ETHERNET + 40
        else:
            return None
        source_port, target_port, _, acknowledged, _, flags = struct.unpack_from("!HHIIBB", frame, start)
        key = source, source_port, target, target_port
        if key not in self._watched:
            return None
        if flags & (_SYN | _RST) or not flags & _ACK:
            return None  # it begins anew, or is over
        outer = Outer(_address(source), source_port, _address(target), target_port)
        if not ours(outer):
            return None
        if not self._may(key, now):
            self.limited += 1
            return None
        self.sent += 1
        return segment(outer, acknowledged, 0, _RST)

    def _may(self, key: tuple[bytes, int, bytes, int], now: float) -> bool:
        """Whether one more reset may leave, and notes that it does."""
        self._left = min(self._rate, self._left + max(0.0, now - self._since) * self._rate)
        self._since = now
        if self._left < 1.0 or now - self._answered.get(key, float("-inf")) < AGAIN:
            return False
        self._left -= 1.0
        self._answered[key] = now
        return True


def _address(packed: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_HEADER = struct.Struct("!HHIIBBHHH")
_TTL = 64


def segment(outer: Outer, sequence: int, acknowledged: int, flags: int) -> bytes:
    """An IP packet with a TCP segment without data, from the VIP to the client. Pure."""

    def tcp_with(checksum: int) -> bytes:
        return _HEADER.pack(outer.vip_port, outer.client_port, sequence, acknowledged, 5 << 4, flags, 0, checksum, 0)

    source, target = outer.vip, outer.client
    pseudo = source.packed + target.packed + struct.pack("!II", _HEADER.size, _TCP)
    tcp = tcp_with(_checksum(pseudo + tcp_with(0)))
    if isinstance(source, IPv4Address):
        # The kernel fills in identification and checksum (raw(7)).
        header = _IPV4.pack(0x45, 0, _IPV4.size + len(tcp), 0, 0, _TTL, _TCP, 0, source.packed, target.packed)
    else:
        header = _IPV6.pack(6 << 28, len(tcp), _TCP, _TTL, source.packed, target.packed)
    return header + tcp


def _checksum(data: bytes) -> int:
    """RFC 1071 over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
