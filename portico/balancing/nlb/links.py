"""Links and their addresses through netlink: what is there, and changes that lose nothing of the administrator's.

Taking the first IPv4 address of a network off an interface makes the kernel drop the network's other addresses (unless
told to promote one) and every route that used it. A VIP that was the server's own address is exactly that, so routes
are compared before and after, and what went is put back.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.balancing.nlb import kept
from portico.errors import Unavailable

AddressOnLink = IPv4Interface | IPv6Interface

_IFA_F_NODAD = 0x02


@dataclass(frozen=True)
class Link:
    """An interface as it is."""

    index: int
    mac: bytes
    up: bool
    bridge: bool
    addresses: frozenset[AddressOnLink]


@contextmanager
def netlink() -> Iterator[IPRoute]:
    """An open netlink socket. Raises Unavailable for whatever goes wrong with it."""
    try:
        with IPRoute() as ip:
            yield ip
    except (NetlinkError, OSError) as error:
        raise Unavailable(
            "Cannot change the interfaces of load balancing",
            why=str(error),
            resolution="It needs root (CAP_NET_ADMIN); look with: ip addr; ip route",
            code="NLB_NETLINK_REFUSED",
        ) from None


def observe(ip: IPRoute, names: set[str]) -> dict[str, Link]:
    """The named interfaces; those that are not there are left out."""
    found: dict[int, tuple[str, Any]] = {}
    for message in ip.get_links():
        name = message.get_attr("IFLA_IFNAME")
        if name in names:
            found[message["index"]] = (name, message)
    addresses: dict[int, set[AddressOnLink]] = {index: set() for index in found}
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in ip.get_addr(family=family):
            if message["index"] in addresses:
                text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                addresses[message["index"]].add(ip_interface(f"{text}/{message['prefixlen']}"))
    links = {}
    for index, (name, message) in found.items():
        info = message.get_attr("IFLA_LINKINFO")
        links[name] = Link(
            index,
            bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
            bool(message["flags"] & 1),
            info is not None and info.get_attr("IFLA_INFO_KIND") == "bridge",
            frozenset(addresses[index]),
        )
    return links


def add_address(ip: IPRoute, link: Link, address: AddressOnLink) -> None:
    """Without duplicate address detection: VIPs are on the loopback device, DIPs were asked for (probe.py)."""
    flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
    try:
        ip.addr("add", **_address(link, address), **flags)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def remove_address(ip: IPRoute, link: Link, address: AddressOnLink) -> None:
    """The address and nothing else."""
    before = kept.routes(link.index)
    try:
        ip.addr("delete", **_address(link, address))
    except NetlinkError as error:
        if error.code != errno.EADDRNOTAVAIL:
            raise
        return
    kept.restore_routes(link.index, before)


def saved_addresses(link: Link) -> list[str]:
    """The interface's addresses in order, for `restore_address`, as text for the ledger."""
    return [message.hex() for _, message in kept.addresses(link.index)]


def restore_address(link: Link, address: AddressOnLink, saved: list[str]) -> None:
    """An address that was taken away, as and where it was; the routes that are there now stay."""
    before = kept.routes(link.index)
    kept.give_back(link.index, [bytes.fromhex(message) for message in saved], address)
    kept.restore_routes(link.index, before)


def set_mac(ip: IPRoute, link: Link, mac: bytes) -> None:
    """Changes the hardware address of an interface that is up."""
    before = kept.routes(link.index)
    ip.link("set", index=link.index, address=mac.hex(":"))
    kept.restore_routes(link.index, before)


def has_filters(ip: IPRoute, index: int) -> bool:
    """Whether anybody has a tc filter in the interface's clsact."""
    return any(list(ip.get_filters(index=index, parent=parent)) for parent in (0xFFFFFFF2, 0xFFFFFFF3))


def _address(link: Link, address: AddressOnLink) -> dict[str, Any]:
    return {
        "index": link.index,
        "address": str(address.ip),
        "prefixlen": address.network.prefixlen,
        "family": socket.AF_INET6 if address.version == 6 else socket.AF_INET,
    }
