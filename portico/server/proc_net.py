"""Places in the kernel's tables of sockets, /proc/net/tcp and its like (proc(5)). Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address


def endpoint(text: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Address and port of `0100007F:01BB`: words of 32 bits as a little-endian machine has them. An IPv4 address of an
    IPv6 socket is IPv4.

    Raises:
        ValueError: it is none.
    """
    address, _, port = text.partition(":")
    raw = bytes.fromhex(address)
    if len(raw) not in (4, 16):
        raise ValueError(text)
    swapped = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    if len(swapped) == 4:
        return IPv4Address(swapped), int(port, 16)
    address6 = IPv6Address(swapped)
    return address6.ipv4_mapped or address6, int(port, 16)
