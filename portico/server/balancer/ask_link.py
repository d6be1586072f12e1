"""Who on an interface's network has these addresses: asked before they are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address

from portico.balancing.nlb import mac
from portico.balancing.nlb.probe import address_in_use

Address = IPv4Address | IPv6Address
_AT_ONCE = 16


def ask_link(interface: str, addresses: Sequence[Address], ignored: Sequence[str] = ()) -> Mapping[Address, str]:
    """Those that another machine answers for, with its MAC address. Blocks for about a second, however many they are.

    Needs CAP_NET_RAW. See `portico.server.facts.Prober`.

    Raises:
        NotPermitted, Unavailable: the interface cannot be used.
    """
    if not addresses:
        return {}
    known = frozenset(map(mac.parse, ignored))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        holders = pool.map(lambda address: address_in_use(interface, address, known), addresses)
        return {
            address: holder.hex(":") for address, holder in zip(addresses, holders, strict=True) if holder is not None
        }
