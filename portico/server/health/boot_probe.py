"""Looks whether the machine's own network configuration has a virtual address of its cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from portico.health.heuristics.boot import Configured, NetworkConfiguration
from portico.server.desired import kept_addresses
from portico.server.reconcile.wanted import HostAddresses

if TYPE_CHECKING:
    from portico.server.agent import Agent

PLACES = (
    "etc/netplan/*.yaml",
    "etc/network/interfaces",
    "etc/network/interfaces.d/*",
    "etc/systemd/network/*.network",
    "etc/NetworkManager/system-connections/*",
    "etc/sysconfig/network-scripts/ifcfg-*",
)
MOST_FILES, MOST_BYTES = 200, 1 << 18

_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{3,}")
_OTHERS = re.compile(r"\b(gateway\d?|via|dns\S*|nameservers?)\b", re.IGNORECASE)
"""Lines that name addresses of other machines."""


async def look_at_network_configuration(agent: Agent) -> NetworkConfiguration | None:
    """None where there are no other servers that would miss a virtual address."""
    settings = agent.platform.settings
    wanted = kept_addresses(settings) if settings is not None else ()
    if not wanted:
        return None
    returned = await asyncio.to_thread(agent.platform.returned.addresses)
    return await asyncio.to_thread(look, wanted, returned, Path("/"))


def look(wanted: Collection[HostAddresses], returned: Collection[str], root: Path) -> NetworkConfiguration:
    """What files have, and what the last boot brought.

    Args:
        wanted: each interface with its dedicated addresses, and the virtual ones that it must not have.
        returned: as `Returned.addresses` has them.
        root: where the machine's files are.
    """
    virtual = {address for item in wanted for address in item.absent}
    places: dict[IPv4Address | IPv6Address, str] = {}
    for path in islice((path for pattern in PLACES for path in sorted(root.glob(pattern))), MOST_FILES):
        for address in _addresses(path):
            if address in virtual:
                places.setdefault(address, f"/{path.relative_to(root)}")
    for text in returned:
        places.setdefault(ip_address(text.partition("/")[0]), "")
    found = [Configured(str(one), place, _instead(one, wanted)) for one, place in places.items() if one in virtual]
    return NetworkConfiguration(tuple(found))


def _addresses(path: Path) -> Iterator[IPv4Address | IPv6Address]:
    """What a file gives to interfaces; nothing when it cannot be read."""
    try:
        with path.open(errors="replace") as file:
            text = file.read(MOST_BYTES)
    except OSError:
        return
    for line in map(str.strip, text.splitlines()):
        if line.startswith(("#", ";")) or _OTHERS.search(line):
            continue
        for token in _ADDRESS.findall(line):
            try:
                yield ip_address(token.strip("."))
            except ValueError:
                continue


def _instead(virtual: IPv4Address | IPv6Address, wanted: Collection[HostAddresses]) -> str:
    """The dedicated address of the interface on whose network a virtual one is."""
    for item in wanted:
        for address in item.present:
            if virtual.version == address.version and virtual in address.network:
                return str(address)
    return ""
