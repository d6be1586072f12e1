"""Which records the corporate DNS must hold, and what clients show when it does not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from portico.settings.addresses import Address
from portico.settings.effective import Effective
from portico.settings.located import (
    advertised_addresses,
    corp_connectivity_addresses,
    corp_connectivity_name,
    nls_name,
    serves_nls,
    web_probe_name,
    within_zone,
    zone,
)
from portico.settings.model import Settings

Kind = Literal["A", "AAAA"]
KINDS: tuple[Kind, Kind] = ("A", "AAAA")


class Purpose(StrEnum):
    """What a name is for, by the name it has in a DirectAccess deployment."""

    CORP_CONNECTIVITY = "corpConnectivityHost"
    WEB_PROBE = "WebProbeHost"
    NLS = "nls"


SYMPTOMS = {
    Purpose.CORP_CONNECTIVITY: "clients take every way in for broken: they fall back to the next transition "
    "technology, and after the last one say NameResolutionFailure",
    Purpose.WEB_PROBE: "clients stay at 'Connecting' for ever, though their tunnel works",
    Purpose.NLS: "clients inside take themselves to be outside: they use the tunnel, or lose the intranet's names",
}


@dataclass(frozen=True)
class WantedName:
    """One name with all the addresses it must have, and no others.

    Attributes:
        name: fully qualified, without the final dot, written as Remote Access writes it. DNS ignores case.
    """

    name: str
    purpose: Purpose
    addresses: tuple[Address, ...]

    def of(self, kind: Kind) -> frozenset[str]:
        """The addresses of one record type, as text in canonical form."""
        version = 4 if kind == "A" else 6
        return frozenset(str(address) for address in self.addresses if address.version == version)

    @property
    def symptom(self) -> str:
        """What users notice without it."""
        return SYMPTOMS[self.purpose]

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "purpose": self.purpose.value, "addresses": [str(a) for a in self.addresses]}


def wanted_names(local: Settings, values: Effective) -> tuple[WantedName, ...]:
    """The names of a deployment, from a localised document.

    A name without a known address (the machine has none yet) is left out, and so is one outside the zone: whoever named
    the network location server elsewhere keeps its records.
    """
    if local.corporate_dns.state == "disabled":
        return ()
    expected = corp_connectivity_addresses(local, values.nat64_mappings)
    names = [WantedName(corp_connectivity_name(local), Purpose.CORP_CONNECTIVITY, expected)]
    advertised = advertised_addresses(local, values.internal_addresses)
    if local.web_probe.state == "enabled":
        others = tuple(local.corporate_dns.other_entry_points)
        found = _ipv4_if_any((*advertised, *others))
        names.append(WantedName(web_probe_name(local), Purpose.WEB_PROBE, found))
    if serves_nls(local) and (name := nls_name(local)) is not None:
        names.append(WantedName(name, Purpose.NLS, advertised))
    return tuple(name for name in names if name.addresses and within_zone(name.name, zone(local)))


def _ipv4_if_any(addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    """The web probe has IPv4 addresses only, except where there are none."""
    four = tuple(address for address in addresses if address.version == 4)
    return four or addresses
