"""Which bucket a packet belongs to, exactly as the kernel computes it. Pure.

`jhash` of <linux/jhash.h> over the words of the packet as a little-endian machine loads them, then
reciprocal_scale (a multiplication instead of a modulus). nftables' `jhash` expression, the eBPF program and this file
agree bit for bit; the lab holds them to it. Big-endian kernels would hash differently, so all servers of a cluster must
be little-endian, which every processor that runs Debian servers today is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from portico.balancing.nlb.plan import BUCKETS, SLOTS, SLOTS_PER_BUCKET, Address, Affinity

_M = 0xFFFFFFFF


def jhash(key: bytes, seed: int) -> int:
    """Bob Jenkins' lookup3 as the Linux kernel has it; 32 bits."""
    a = b = c = (0xDEADBEEF + len(key) + seed) & _M
    left = key
    while len(left) > 12:
        x, y, z = _words(left[:12])
        a, b, c = (a + x) & _M, (b + y) & _M, (c + z) & _M
        a = ((a - c) & _M) ^ _rotate(c, 4)
        c = (c + b) & _M
        b = ((b - a) & _M) ^ _rotate(a, 6)
        a = (a + c) & _M
        c = ((c - b) & _M) ^ _rotate(b, 8)
        b = (b + a) & _M
        a = ((a - c) & _M) ^ _rotate(c, 16)
        c = (c + b) & _M
        b = ((b - a) & _M) ^ _rotate(a, 19)
        a = (a + c) & _M
        c = ((c - b) & _M) ^ _rotate(b, 4)
        b = (b + a) & _M
        left = left[12:]
    if not left:
        return c
    x, y, z = _words(left)
    a, b, c = (a + x) & _M, (b + y) & _M, (c + z) & _M
    c = ((c ^ b) - _rotate(b, 14)) & _M
    a = ((a ^ c) - _rotate(c, 11)) & _M
    b = ((b ^ a) - _rotate(a, 25)) & _M
    c = ((c ^ b) - _rotate(b, 16)) & _M
    a = ((a ^ c) - _rotate(c, 4)) & _M
    b = ((b ^ a) - _rotate(a, 14)) & _M
    return ((c ^ b) - _rotate(b, 24)) & _M


def slot_of(source: Address, port: int, affinity: Affinity, seed: int) -> int:
    """The slot (0 to 3839) of a client; 64 neighbouring slots are a bucket."""
    return (jhash(_key(source, port, affinity), seed) * SLOTS) >> 32


def bucket_of(source: Address, port: int, affinity: Affinity, seed: int) -> int:
    """The bucket (0 to 59) of a client's packets. `port` is its source port and matters with affinity none only."""
    return (jhash(_key(source, port, affinity), seed) * BUCKETS) >> 32


def busy_slots(
    sources: Iterable[tuple[Address, int]], buckets: frozenset[int], affinity: Affinity, seed: int
) -> frozenset[int]:
    """The slots of the given buckets in which somebody has a session: what a former owner asks to hold."""
    slots = {slot_of(address, port, affinity, seed) for address, port in sources}
    return frozenset(slot for slot in slots if slot // SLOTS_PER_BUCKET in buckets)


def _key(source: Address, port: int, affinity: Affinity) -> bytes:
    if affinity == "single":
        return source.packed
    if affinity == "network":
        return _network(source)
    # nftables pads each part of a concatenation to 32 bits.
    return source.packed + struct.pack("!Hxx", port)


def _network(source: IPv4Address | IPv6Address) -> bytes:
    """The client's /24 (what Windows calls its class C network) or /64."""
    return source.packed[:3] + b"\0" if source.version == 4 else source.packed[:8] + bytes(8)


def _words(block: bytes) -> tuple[int, int, int]:
    padded = block.ljust(12, b"\0")
    return (
        int.from_bytes(padded[:4], "little"),
        int.from_bytes(padded[4:8], "little"),
        int.from_bytes(padded[8:], "little"),
    )


def _rotate(x: int, bits: int) -> int:
    return (x << bits | x >> (32 - bits)) & _M
