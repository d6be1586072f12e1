"""Routes to Portico's devices: the clients' prefix, and the table that leads to the translator."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.server.reconcile.tun import LinkState
from portico.server.reconcile.wanted import MAIN_TABLE, NAT64_TABLE, Change, Route

_RTPROT_KERNEL = 2
_RTPROT_STATIC = 4
_FAMILIES: Mapping[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}


@dataclass(frozen=True)
class Observed:
    route: Route
    from_kernel: bool
    """Made by the kernel itself for an address; goes when the address goes."""


def observe(ip: IPRoute, links: Mapping[str, LinkState]) -> frozenset[Observed]:
    """Unicast routes in table 6464 and those of the main table that lead to the given links."""
    names = {link.index: name for name, link in links.items()}
    found = set()
    for family, version in _FAMILIES.items():
        for message in ip.get_routes(family=family):
            table = message.get_attr("RTA_TABLE") or message["table"]
            if table not in (MAIN_TABLE, NAT64_TABLE) or message["flags"] & 0x200:  # RTM_F_CLONED: a cache entry
                continue
            name = names.get(message.get_attr("RTA_OIF"))
            if name is None and table != NAT64_TABLE:
                continue
            target = message.get_attr("RTA_DST")
            destination = f"{target}/{message['dst_len']}" if target is not None else "default"
            route = Route(6 if version == 6 else 4, table, destination, name or "?")
            found.add(Observed(route, message["proto"] == _RTPROT_KERNEL))
    return frozenset(found)


def plan(wanted: Sequence[Route], state: Collection[Observed]) -> list[Change]:
    """Missing routes are added; foreign ones in our table and to our devices removed."""
    there = {seen.route for seen in state}
    foreign = sorted(seen.route for seen in state if not seen.from_kernel and seen.route not in wanted)
    changes = [Change("routes", "remove", str(route), key=route) for route in foreign]
    return changes + [Change("routes", "add", str(route), key=route) for route in wanted if route not in there]


def apply(ip: IPRoute, changes: Sequence[Change], links: Mapping[str, LinkState]) -> None:
    for change in changes:
        route = change.key
        assert isinstance(route, Route)
        arguments: dict[str, object] = {
            "family": socket.AF_INET6 if route.family == 6 else socket.AF_INET,
            "dst": route.destination,
            "table": route.table,
        }
        if route.interface in links:
            arguments["oif"] = links[route.interface].index
        elif change.action == "add":
            continue  # its device went away since it was observed; the next look sees that
        try:
            if change.action == "add":
                ip.route("add", proto=_RTPROT_STATIC, **arguments)
            else:
                ip.route("del", **arguments)
        except NetlinkError as error:
            if error.code not in (errno.EEXIST, errno.ESRCH, errno.ENOENT):
                raise


def undo(ip: IPRoute) -> None:
    """Empties our table. Routes to our devices go with the devices."""
    ip.flush_routes(table=NAT64_TABLE, family=socket.AF_INET)
