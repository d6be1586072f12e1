"""Addresses of Portico's own devices. What is on other interfaces is not ours to touch."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_interface

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.server.reconcile.tun import LinkState
from portico.server.reconcile.wanted import Change, DeviceAddress

_IFA_F_NODAD = 0x02


def observe(ip: IPRoute, links: Mapping[str, LinkState]) -> frozenset[DeviceAddress]:
    """The addresses on the given links."""
    names = {link.index: name for name, link in links.items()}
    return frozenset(
        DeviceAddress(names[a["index"]], ip_interface(f"{a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}"))
        for family in (socket.AF_INET, socket.AF_INET6)
        for a in ip.get_addr(family=family)
        if a["index"] in names
    )


def plan(wanted: Sequence[DeviceAddress], state: Collection[DeviceAddress]) -> list[Change]:
    """Missing addresses are added, foreign ones on our devices removed."""
    changes = [Change("addresses", "remove", str(a), key=a) for a in sorted(set(state) - set(wanted), key=str)]
    changes += [Change("addresses", "add", str(a), key=a) for a in wanted if a not in state]
    return changes


def apply(ip: IPRoute, changes: Sequence[Change], links: Mapping[str, LinkState]) -> None:
    """Nobody but us is on these links, so duplicate address detection would only delay them: `nodad`."""
    for change in changes:
        item = change.key
        assert isinstance(item, DeviceAddress)
        link = links.get(item.interface)
        if link is None:
            continue  # it went away since it was observed; the next look sees that
        arguments = {
            "index": link.index,
            "address": str(item.address.ip),
            "prefixlen": item.address.network.prefixlen,
            "family": socket.AF_INET6 if item.address.version == 6 else socket.AF_INET,
        }
        flags = {"flags": _IFA_F_NODAD} if item.address.version == 6 else {}
        try:
            if change.action == "add":
                ip.addr("add", **arguments, **flags)
            else:
                ip.addr("delete", **arguments)
        except NetlinkError as error:
            if error.code not in (errno.EEXIST, errno.EADDRNOTAVAIL):
                raise
