"""The network this computer is in, without the tunnel: its cards, and by which of them an address is reached.

Both functions ask the kernel, block for about a millisecond and must not run in an event loop's thread (pyroute2 has a
loop of its own).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_IFF_LOOPBACK = 0x8
_IFF_LOWER_UP = 0x10000
_RT_SCOPE_LINK, _RT_SCOPE_HOST = 253, 254
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_MAIN_TABLE = 254


@dataclass(frozen=True, order=True)
class Card:
    """An interface with a link and at least one address that reaches beyond it.

    Attributes:
        addresses: with their prefix lengths, sorted.
        gateways: of its default routes, sorted.
    """

    name: str
    index: int
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()

    def __str__(self) -> str:
        by = f" by {', '.join(self.gateways)}" if self.gateways else ""
        return f"{self.name} {', '.join(self.addresses)}{by}"


@dataclass(frozen=True)
class Surroundings:
    """All cards but the tunnel, and the machine's own resolvers. Two of them are equal when nothing has changed that
    could lead inside or outside."""

    cards: tuple[Card, ...] = ()
    resolvers: tuple[str, ...] = ()

    @property
    def network(self) -> bool:
        """Whether there is one."""
        return bool(self.cards)

    def __str__(self) -> str:
        return "; ".join(map(str, self.cards))


def look(tunnel: str, resolvers: Sequence[str]) -> Surroundings:
    """The network as it is now.

    Args:
        tunnel: the interface to leave out.

    Raises:
        OSError: the kernel does not say.
    """
    try:
        return Surroundings(_cards(tunnel), tuple(resolvers))
    except NetlinkError as error:  # an interface went away meanwhile
        raise OSError(error.code, str(error)) from None


def _cards(tunnel: str) -> tuple[Card, ...]:
    addresses: dict[int, list[str]] = {}
    gateways: dict[int, set[str]] = {}
    with IPRoute() as ip:
        names = {
            link["index"]: str(link.get_attr("IFLA_IFNAME"))
            for link in ip.get_links()
            if link["flags"] & _IFF_LOWER_UP and not link["flags"] & _IFF_LOOPBACK
        }
        for message in ip.get_addr():
            flags = message.get_attr("IFA_FLAGS") or message["flags"]
            if message["scope"] in (_RT_SCOPE_LINK, _RT_SCOPE_HOST) or flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED):
                continue
            # IFA_LOCAL is this end of a point-to-point link; IPv6 has it only there.
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            addresses.setdefault(message["index"], []).append(f"{address}/{message['prefixlen']}")
        for route in ip.get_routes(table=_MAIN_TABLE):
            gateway, index = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_OIF")
            if route["dst_len"] == 0 and gateway and index is not None:
                gateways.setdefault(index, set()).add(str(gateway))
    cards = (
        Card(name, index, tuple(sorted(addresses[index])), tuple(sorted(gateways.get(index, ()))))
        for index, name in names.items()
        if name != tunnel and index in addresses
    )
    return tuple(sorted(cards))


def way_to(address: str, cards: Sequence[Card]) -> str | None:
    """The card by which an address is reached when the tunnel's routes do not count; None when there is no way.

    Empty for an address of this computer itself.
    """
    if ip_address(address.partition("%")[0]).is_loopback:
        return ""
    names = {card.index: card.name for card in cards}
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with IPRoute() as ip:
        # What the kernel would take first; only where that is the tunnel, each card is tried by itself.
        for wanted in (None, *names):
            only = {} if wanted is None else {"oif": wanted}
            try:
                route = next(iter(ip.route("get", family=family, dst=address.partition("%")[0], **only)))
            except (NetlinkError, StopIteration, OSError):
                continue
            index = route.get_attr("RTA_OIF")
            if index in names:
                return names[index]
    return None
