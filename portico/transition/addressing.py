"""The addressing plan of a deployment: making an organisation prefix, and what each server and client gets of it.

The arithmetic itself is in `portico.settings.addresses`, where the rules of the settings use it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from portico.settings.addresses import (
    AddressPlan,
    embed_ipv4,
    extract_ipv4,
    is_cluster_client_prefix,
    server_prefix,
)
from portico.settings.effective import Effective, base_url, connect_url, effective

__all__ = [
    "AddressPlan",
    "Effective",
    "InterfaceAddress",
    "base_url",
    "connect_url",
    "effective",
    "embed_ipv4",
    "extract_ipv4",
    "generate_organisation_prefix",
    "is_cluster_client_prefix",
    "isatap_address",
    "server_prefix",
    "tunnel_addresses",
]

LINK_LOCAL = IPv6Address("fe80::1")
"""The server's own address on the IP-HTTPS link, the source of its router advertisements."""


def generate_organisation_prefix(random: Callable[[int], bytes]) -> IPv6Network:
    """A unique local /48: fd00::/8 and 40 random bits (RFC 4193 section 3.2).

    Args:
        random: returns that many random bytes (`secrets.token_bytes`).

    Raises:
        ValueError: the source returned something else than five bytes.
    """
    bits = random(5)
    if len(bits) != 5:
        raise ValueError("the random source did not return five bytes")
    return IPv6Network((b"\xfd" + bits + bytes(10), 48))


@dataclass(frozen=True)
class InterfaceAddress:
    """An address for the IP-HTTPS interface, to be added without duplicate address detection: the gateway does ND."""

    address: IPv6Address
    prefix_length: int

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix_length}"


def tunnel_addresses(values: Effective) -> tuple[InterfaceAddress, ...]:
    """The addresses of the interface `portico-iphttps`, the link-local one first."""
    first, second = values.tunnel_endpoints
    addresses = [
        InterfaceAddress(LINK_LOCAL, 64),
        InterfaceAddress(first, values.link_prefix.prefixlen),
        InterfaceAddress(second, 128),
    ]
    if values.dns64_address is not None:
        addresses.append(InterfaceAddress(values.dns64_address, 128))
    return tuple(addresses)


def isatap_address(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """The ISATAP address of an intranet host: `0:5efe` before a private IPv4 address, `200:5efe` before a public one
    (RFC 5214 section 6.1).

    Raises:
        ValueError: the prefix is not a /64.
    """
    if prefix.prefixlen != 64:
        raise ValueError(f"{prefix} is not a /64")
    universal = 0 if address.is_private else 0x0200
    return prefix.network_address + ((universal << 48) | (0x5EFE << 32) | int(address))
