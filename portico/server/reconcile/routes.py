"""Routes to Portico's devices: the clients' prefix, and the table that leads to the translator."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.server.reconcile.tun import LinkState
from portico.server.reconcile.wanted import MAIN_TABLE, NAT64_TABLE, Change, Route

_RTPROT_KERNEL = 2
_RTPROT_STATIC = 4
_FAMILIES: Mapping[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}


# linux/rtnetlink.h: what a dump says of a type of route that sends nothing anywhere.
_UNICAST = 1
_TYPES: Mapping[int, str] = {6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
_NOWHERE = "-"


@dataclass(frozen=True)
class Observed:
    """A route as the kernel has it.

    Attributes:
        from_kernel: made by the kernel itself for an address; goes when the address goes.
        odd: what is set of it and no route of ours has (a gateway, a type, limits), in words; empty for most.
        metric: the smaller one wins among routes to one destination.
    """

    route: Route
    from_kernel: bool
    odd: str = ""
    metric: int = 0

    def __str__(self) -> str:
        return f"{self.route} {self.odd}".strip()


def observe(ip: IPRoute, links: Mapping[str, LinkState], wanted: Sequence[Route] = ()) -> frozenset[Observed]:
    """Routes in table 6464, those of the main table that lead to the given links, and those there that take packets
    for a wanted destination elsewhere."""
    names = {link.index: name for name, link in links.items()}
    ours = {(route.family, route.destination) for route in wanted if route.table == MAIN_TABLE}
    every = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()} if ours else {}
    found = set()
    for family, version in _FAMILIES.items():
        for message in ip.get_routes(family=family):
            table = message.get_attr("RTA_TABLE") or message["table"]
            if table not in (MAIN_TABLE, NAT64_TABLE) or message["flags"] & 0x200:  # RTM_F_CLONED: a cache entry
                continue
            target = message.get_attr("RTA_DST")
            destination = f"{target}/{message['dst_len']}" if target is not None else "default"
            name = names.get(message.get_attr("RTA_OIF"))
            if name is None and table != NAT64_TABLE:
                if (version, destination) not in ours:
                    continue
                name = every.get(message.get_attr("RTA_OIF"), _NOWHERE)
            route = Route(6 if version == 6 else 4, table, destination, name or _NOWHERE)
            from_kernel = message["proto"] == _RTPROT_KERNEL
            metric = message.get_attr("RTA_PRIORITY") or 0
            found.add(Observed(route, from_kernel, _odd(message), metric))
    return frozenset(found)


def _odd(message: Any) -> str:
    said = [_TYPES.get(message["type"], f"type {message['type']}")] if message["type"] != _UNICAST else []
    gateway = message.get_attr("RTA_GATEWAY")
    said += [f"via {gateway}"] if gateway is not None else []
    limits = message.get_attr("RTA_METRICS")
    said += [f"{name.removeprefix('RTAX_').lower()} {value}" for name, value in limits["attrs"]] if limits else []
    return " ".join(said)


def plan(wanted: Sequence[Route], state: Collection[Observed]) -> list[Change]:
    """Missing routes are added; foreign ones in our table, to our devices and to our destinations removed."""
    there = {seen.route for seen in state if not seen.odd}
    foreign = sorted(
        (seen for seen in state if not seen.from_kernel and (seen.odd or seen.route not in wanted)),
        key=lambda seen: (str(seen), seen.metric),
    )
    changes = [Change("routes", "remove", str(seen), key=seen) for seen in foreign]
    return changes + [Change("routes", "add", str(route), key=route) for route in wanted if route not in there]


def apply(ip: IPRoute, changes: Sequence[Change], links: Mapping[str, LinkState]) -> None:
    for change in changes:
        seen = change.key
        route = seen.route if isinstance(seen, Observed) else seen
        assert isinstance(route, Route)
        arguments: dict[str, object] = {
            "family": socket.AF_INET6 if route.family == 6 else socket.AF_INET,
            "dst": route.destination,
            "table": route.table,
        }
        if route.interface in links:
            arguments["oif"] = links[route.interface].index
        elif isinstance(seen, Observed) and route.interface != _NOWHERE:
            found = ip.link_lookup(ifname=route.interface)
            if not found:
                continue
            arguments["oif"] = found[0]
        elif change.action == "add":
            continue  # its device went away since it was observed; the next look sees that
        if isinstance(seen, Observed) and seen.metric:
            arguments["priority"] = seen.metric
        if isinstance(seen, Observed) and (kind := seen.odd.split(" ")[0]) in _TYPES.values():
            arguments["type"] = kind
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
