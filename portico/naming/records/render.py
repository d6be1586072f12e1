"""The records for people who enter them by hand: as a zone, and as commands. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import Literal

from portico.naming.records.wanted import KINDS, WantedName

Format = Literal["zone", "nsupdate", "samba-tool", "powershell"]


def _rows(wanted: Sequence[WantedName]) -> Iterator[tuple[str, str, str]]:
    for name in wanted:
        for kind in KINDS:
            for value in sorted(name.of(kind), key=lambda text: int(ip_address(text))):
                yield name.name, kind, value


def _label(name: str, zone: str) -> str:
    """The name relative to its zone."""
    return "@" if name.lower() == zone.lower() else name[: -len(zone) - 1]


def zone_text(wanted: Sequence[WantedName], zone: str, ttl: int, server: str) -> str:
    """Lines for the zone's file (RFC 1035 section 5)."""
    lines = [f"$ORIGIN {zone}."]
    lines += [f"{_label(name, zone):<36} {ttl} IN {kind:<4} {value}" for name, kind, value in _rows(wanted)]
    return "\n".join(lines) + "\n"


def nsupdate_text(wanted: Sequence[WantedName], zone: str, ttl: int, server: str) -> str:
    """Input of nsupdate(1): each name gets exactly these addresses."""
    lines = [f"server {server}"] if server else []
    lines.append(f"zone {zone}.")
    for name in wanted:
        lines += [f"update delete {name.name}. {kind}" for kind in KINDS]
    lines += [f"update add {name}. {ttl} {kind} {value}" for name, kind, value in _rows(wanted)]
    return "\n".join([*lines, "send"]) + "\n"


def samba_text(wanted: Sequence[WantedName], zone: str, ttl: int, server: str) -> str:
    """samba-tool(8), to be run on or against a domain controller; it asks for a password."""
    target = server or "DOMAIN-CONTROLLER"
    lines = [
        f"samba-tool dns add {target} {zone} {_label(name, zone)} {kind} {value} -U Administrator"
        for name, kind, value in _rows(wanted)
    ]
    return "\n".join(lines) + "\n"


def powershell_text(wanted: Sequence[WantedName], zone: str, ttl: int, server: str) -> str:
    """The cmdlets of the DnsServer module. Without -AgeRecord a record is static, and scavenging leaves it."""
    to = f" -ComputerName '{server}'" if server else ""
    live = f"-TimeToLive ([TimeSpan]::FromSeconds({ttl}))"
    lines = []
    for name, kind, value in _rows(wanted):
        given = f"-A -IPv4Address {value}" if kind == "A" else f"-AAAA -IPv6Address {value}"
        zone_name = f"-ZoneName '{zone}' -Name '{_label(name, zone)}'"
        lines.append(f"Add-DnsServerResourceRecord{to} {zone_name} {given} {live}")
    return "\n".join(lines) + "\n"


_FORMATS: dict[Format, Callable[[Sequence[WantedName], str, int, str], str]] = {
    "zone": zone_text,
    "nsupdate": nsupdate_text,
    "samba-tool": samba_text,
    "powershell": powershell_text,
}


def render(form: Format, wanted: Sequence[WantedName], *, zone: str, ttl: int, server: str = "") -> str:
    """The records in one of the forms.

    Args:
        ttl: seconds.
        server: the DNS server that takes updates, empty when it is not known.
    """
    return _FORMATS[form](wanted, zone, ttl, server)
