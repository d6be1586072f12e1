"""The forms in which addresses are written, and the arithmetic of prefixes. Pure.

The forms are those of the Remote Access cmdlets: IPv4 with a mask or a length, IPv6 with a length, blanks allowed
around the slash (the Windows console itself produces `10.244.4.19 /255.255.255.0`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

CLUSTER_CLIENT_PREFIX_LENGTH = 59
SERVER_CLIENT_PREFIX_LENGTH = 64
NAT64_PREFIX_LENGTH = 96
DYNAMIC_PORTS = (1024, 65535)
DEFAULT_POOL_PORTS = (32768, 60999)

_SLASH = re.compile(r"\s*/\s*")


def _tidy(text: str) -> str:
    return _SLASH.sub("/", text.strip())


def parse_interface(text: str) -> IPv4Interface | IPv6Interface:
    """An address with its mask or length: `131.107.0.5/255.255.255.0`, `10.244.4.19 /24`, `3ffe::5/64`.

    Raises:
        ValueError: no such address, or the mask or length is missing.
    """
    tidy = _tidy(text)
    if "/" not in tidy:
        raise ValueError(f"'{text}' has no mask or prefix length")
    return ip_interface(tidy)


def parse_host_address(text: str) -> IPv4Interface | IPv6Interface:
    """As `parse_interface`, for an address that one host can have.

    Raises:
        ValueError: with what is wrong about it.
    """
    if "%" in text:
        raise ValueError(f"'{text}' has a scope")
    interface = parse_interface(text)
    address, network = interface.ip, interface.network
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        raise ValueError(f"{address} is not a unicast address that other hosts can reach")
    whole = network.max_prefixlen - network.prefixlen
    if address == network.network_address and whole > 1:
        raise ValueError(f"{address} is the address of the network {network} itself")
    if address.version == 4 and address == network.broadcast_address and whole > 1:
        raise ValueError(f"{address} is the broadcast address of {network}")
    return interface


def format_interface(interface: IPv4Interface | IPv6Interface) -> str:
    """The form the cmdlets print: a mask for IPv4, a length for IPv6."""
    if isinstance(interface, IPv4Interface):
        return f"{interface.ip}/{interface.netmask}"
    return f"{interface.ip}/{interface.network.prefixlen}"


def parse_network(text: str) -> Network:
    """A prefix without host bits.

    Raises:
        ValueError: malformed, or bits are set behind the prefix length; the message gives the prefix that was meant.
    """
    tidy = _tidy(text)
    if "/" not in tidy:
        raise ValueError(f"'{text}' has no prefix length")
    try:
        return ip_network(tidy)
    except ValueError:
        meant = ip_network(tidy, strict=False)
    raise ValueError(f"'{text}' has bits set behind its prefix length; the prefix is {meant}")


@dataclass(frozen=True, order=True)
class AddressPortPool:
    """An address and the inclusive range of ports NAT64 may use on it: `10.0.0.2,1024-3388`, `10.0.0.1,*`."""

    address: IPv4Address
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> AddressPortPool:
        """Reads the form of `IPv4AddressPortPool`; `*` is 1024-65535.

        Raises:
            ValueError: with what is wrong about the text.
        """
        address_text, comma, ports = (part.strip() for part in text.partition(","))
        if not comma:
            raise ValueError(f"'{text}' has no ports; write '<IPv4 address>,<first>-<last>' or '<IPv4 address>,*'")
        address = IPv4Address(address_text)
        if ports == "*":
            return cls(address, *DYNAMIC_PORTS)
        match = re.fullmatch(r"([0-9]{1,5})\s*-\s*([0-9]{1,5})", ports, flags=re.ASCII)
        if match is None:
            raise ValueError(f"'{ports}' is not a port range; write '<first>-<last>' or '*'")
        first, last = int(match[1]), int(match[2])
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"the port range {first}-{last} is not within 1-65535 in ascending order")
        return cls(address, first, last)

    def __str__(self) -> str:
        return f"{self.address},{self.first}-{self.last}"

    def overlaps(self, other: AddressPortPool) -> bool:
        return self.address == other.address and self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, order=True)
class PrefixMapping:
    """The NAT64 prefix that stands for the IPv4 addresses of one network: `fd7c:1a2b:3c4d:7777::/96,10.0.0.0/8`.

    Of several mappings the one with the longest network that contains an address decides.
    """

    prefix: IPv6Network
    network: IPv4Network

    @classmethod
    def parse(cls, text: str) -> PrefixMapping:
        """Reads the form of `PrefixMapping`.

        Raises:
            ValueError: with what is wrong about the text. The length of the prefix is not judged here.
        """
        prefix_text, comma, network_text = (part.strip() for part in text.partition(","))
        if not comma:
            raise ValueError(f"'{text}' has no IPv4 prefix; write '<IPv6 prefix>/96,<IPv4 prefix>', or ...,0.0.0.0/0")
        prefix, network = parse_network(prefix_text), parse_network(network_text)
        if not isinstance(prefix, IPv6Network) or not isinstance(network, IPv4Network):
            raise ValueError(f"'{text}' is not an IPv6 prefix, a comma and an IPv4 prefix")
        return cls(prefix, network)

    def __str__(self) -> str:
        return f"{self.prefix},{self.network}"


EVERY_IPV4 = IPv4Network("0.0.0.0/0")


def mapping_of(mappings: Iterable[PrefixMapping], address: IPv4Address) -> PrefixMapping | None:
    """The mapping that decides about an IPv4 address, None when there is none for it."""
    found = [mapping for mapping in mappings if address in mapping.network]
    return max(found, key=lambda mapping: mapping.network.prefixlen, default=None)


@dataclass(frozen=True, order=True)
class DnsServer:
    """A DNS server's address and port: `10.0.0.53`, `10.0.0.53:5353`, `fd00::53`, `[fd00::53]:5353`."""

    address: Address
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> DnsServer:
        """Raises ValueError with what is wrong about the text."""
        text = text.strip()
        host, port = text, "53"
        if bracketed := re.fullmatch(r"\[([^\]]+)\](?::([0-9]{1,5}))?", text, flags=re.ASCII):
            host, port = bracketed[1], bracketed[2] or "53"
        elif text.count(":") == 1:
            host, port = text.split(":")
        if not re.fullmatch(r"[0-9]{1,5}", port, flags=re.ASCII) or not 1 <= int(port) <= 65535:
            raise ValueError(f"'{port}' is not a port (1-65535)")
        address = ip_address(host)
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise ValueError(f"'{host}' has a scope; give an address that is valid on the whole machine")
        if address.is_unspecified or address.is_multicast:
            raise ValueError(f"'{host}' cannot be asked; give the unicast address of a DNS server")
        return cls(address, int(port))

    def __str__(self) -> str:
        if self.port == 53:
            return str(self.address)
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


def is_cluster_client_prefix(prefix: IPv6Network) -> bool:
    """Whether a prefix can be a cluster's client prefix: exactly a /59, so 32 server prefixes of /64.

    Alignment on 0x20 in the fourth group is implied: a network with host bits is no network. `2001:db8:1:1010::/59`
    cannot be built; see `parse_network`.
    """
    return prefix.prefixlen == CLUSTER_CLIENT_PREFIX_LENGTH


def server_prefix(client_prefix: IPv6Network, index: int) -> IPv6Network:
    """The /64 of the server with this index (0-31) in a /59; a /64 has index 0 only.

    Raises:
        ValueError: the prefix is neither a /59 nor a /64, or has no such index.
    """
    if client_prefix.prefixlen not in (CLUSTER_CLIENT_PREFIX_LENGTH, SERVER_CLIENT_PREFIX_LENGTH):
        raise ValueError(f"{client_prefix} is neither a /59 nor a /64")
    if not 0 <= index < 1 << (SERVER_CLIENT_PREFIX_LENGTH - client_prefix.prefixlen):
        raise ValueError(f"{client_prefix} has no server prefix number {index}")
    return IPv6Network((int(client_prefix.network_address) + (index << 64), SERVER_CLIENT_PREFIX_LENGTH))


def within(prefix: IPv6Network, subnet: int, length: int) -> IPv6Network:
    """The network of `length` whose fourth group is `subnet` in an organisation /48."""
    return IPv6Network((int(prefix.network_address) + (subnet << 64), length))


def embed_ipv4(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    """The IPv6 address of an IPv4 server behind a NAT64 /96 (RFC 6052 section 2.2).

    Raises:
        ValueError: the prefix is not a /96.
    """
    if prefix.prefixlen != NAT64_PREFIX_LENGTH:
        raise ValueError(f"{prefix} is not a /96")
    return prefix.network_address + int(address)


def embed_network(mappings: Iterable[PrefixMapping], network: IPv4Network) -> list[IPv6Network]:
    """The IPv6 networks that stand for an IPv4 one: of each mapping that has a part of it, that part."""
    found = []
    for mapping in mappings:
        if mapping.network.overlaps(network):
            part = network if network.subnet_of(mapping.network) else mapping.network
            length = NAT64_PREFIX_LENGTH + part.prefixlen
            found.append(IPv6Network((embed_ipv4(mapping.prefix, part.network_address), length)))
    return found


def extract_ipv4(prefix: IPv6Network, address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside an address of a NAT64 /96, None for an address outside it."""
    if prefix.prefixlen != NAT64_PREFIX_LENGTH or address not in prefix:
        return None
    return IPv4Address(int(address) & 0xFFFFFFFF)


@dataclass(frozen=True)
class AddressPlan:
    """What an organisation /48 is cut into, with the numbers a Windows deployment uses."""

    organisation: IPv6Network
    intranet: IPv6Network
    isatap: IPv6Network
    client: IPv6Network
    client_cluster: IPv6Network
    vpn: IPv6Network
    dns64: IPv6Address
    nat64: IPv6Network
    tunnel_endpoints: tuple[IPv6Address, IPv6Address]

    @classmethod
    def of(cls, organisation: IPv6Network) -> AddressPlan:
        """Raises ValueError when the prefix is not a /48."""
        if organisation.prefixlen != 48:
            raise ValueError(f"{organisation} is not a /48")
        client = within(organisation, 0x1000, SERVER_CLIENT_PREFIX_LENGTH)
        return cls(
            organisation=organisation,
            intranet=within(organisation, 0x0001, 64),
            isatap=within(organisation, 0x0001, 64),
            client=client,
            client_cluster=within(organisation, 0x1000, CLUSTER_CLIENT_PREFIX_LENGTH),
            vpn=within(organisation, 0x2000, 64),
            dns64=within(organisation, 0x3333, 64).network_address + 1,
            nat64=within(organisation, 0x7777, NAT64_PREFIX_LENGTH),
            tunnel_endpoints=(client.network_address + 1, client.network_address + 2),
        )
