"""The hardware addresses of a cluster, as Windows NLB forms them. Pure.

| mode | cluster MAC of w.x.y.z |
|---|---|
| unicast | 02-BF-w-x-y-z |
| multicast | 03-BF-w-x-y-z |
| igmp | 01-00-5E-7F-y-z, that is the group 239.255.y.z |

Of an IPv6 address the XOR of its four 32-bit words stands for w.x.y.z. Microsoft's documentation of
Get-NlbClusterDriverInfo shows one example, which the tests hold us to.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

UNICAST_PREFIX = b"\x02\xbf"
"""What every cluster MAC of unicast begins with."""


def cluster_mac(mode: Literal["unicast", "multicast", "igmp"], vip: IPv4Address | IPv6Address) -> bytes:
    """The 6 bytes that the VIP resolves to in this mode."""
    word = _word(vip)
    if mode == "unicast":
        return UNICAST_PREFIX + word
    if mode == "multicast":
        return b"\x03\xbf" + word
    return b"\x01\x00\x5e\x7f" + word[2:]


def masked_source(priority: int, vip: IPv4Address | IPv6Address) -> bytes:
    """The source of a server's frames in takeover, 02-priority-w-x-y-z: different for each server, and never the
    cluster MAC, or the switch would learn where "it" is and send everything there."""
    if not 1 <= priority <= 32:
        raise ValueError(f"host priority {priority} is not within 1 to 32")
    return bytes([2, priority]) + _word(vip)


def igmp_group(vip: IPv4Address | IPv6Address) -> IPv4Address:
    """239.255.y.z: the group whose Ethernet address (RFC 1112 section 6.4) is the cluster MAC of IGMP mode."""
    return IPv4Address(b"\xef\xff" + _word(vip)[2:])


def solicited_node_group(address: IPv6Address) -> IPv6Address:
    """ff02::1:ffXX:XXXX, where neighbour solicitations for an address go (RFC 4291 section 2.7.1)."""
    return IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + address.packed[13:])


def ipv6_group_mac(group: IPv6Address) -> bytes:
    """33-33 and the last 32 bits (RFC 2464 section 7)."""
    return b"\x33\x33" + group.packed[12:]


def text(mac: bytes) -> str:
    """`02:bf:cb:00:71:01`."""
    return mac.hex(":")


def parse(mac: str) -> bytes:
    """6 bytes from hexadecimal with colons, hyphens or dots; ValueError otherwise."""
    found = bytes.fromhex(mac.replace(":", "").replace("-", "").replace(".", ""))
    if len(found) != 6:
        raise ValueError(f"{mac} is not a hardware address")
    return found


def _word(vip: IPv4Address | IPv6Address) -> bytes:
    if vip.version == 4:
        return vip.packed
    a, b, c, d = struct.unpack("!4I", vip.packed)
    return struct.pack("!I", a ^ b ^ c ^ d)
