"""What this machine does between its boot and the start of its agent, when it is a server among others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE
from portico.health.observations import Observations
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState


@dataclass(frozen=True)
class Configured:
    """A virtual address that the machine's own network configuration gives to one of its interfaces.

    Attributes:
        place: the file that has it; empty: it came with the last boot, and nobody knows from where.
        dedicated: what belongs there instead, with prefix length; empty: not known.
    """

    address: str
    place: str
    dedicated: str


@dataclass(frozen=True)
class NetworkConfiguration:
    """Of a server among others."""

    virtual: tuple[Configured, ...]


AT_BOOT: Final = CATALOGUE.add(
    "VIRTUAL_ADDRESS_AT_BOOT",
    Component.NETWORK_ADAPTERS,
    HealthState.WARNING,
    what="After a restart of the machine it takes the virtual address {about} from the other servers",
    cause="{place}: until Portico starts and takes it away again, the machine answers for it alone and serves nobody",
    resolution="{instead}; running connections are not concerned, nothing must be restarted",
)


@heuristic(Component.NETWORK_ADAPTERS)
def is_silent_after_a_restart(seen: Observations) -> Findings:
    """The machine's own configuration has dedicated addresses and no virtual ones."""
    found = seen.extra(NetworkConfiguration)  # noqa: S610  # it has nothing to do with Django
    if found is None:
        return None
    findings = []
    for one in found.virtual:
        place = f"{one.place} has it" if one.place else "the last boot brought it"
        where = one.place or "the machine's network configuration (netplan, ifupdown, networkd, NetworkManager, DHCP)"
        instead = f"Write {one.dedicated} in its place" if one.dedicated else "Remove it"
        findings.append(AT_BOOT.finding(one.address, place=place, instead=f"{instead}: {where}"))
    return findings
