"""Static address entries for routers that do not believe a multicast hardware address of a unicast address.

RFC 1812 section 3.3.2: a router must not believe an ARP reply that names a multicast or broadcast link-layer address.
Many keep to it, for neighbour discovery as well; an entry made by hand is believed. None of these commands was tried on
a vendor's equipment, and syntax differs between releases: each must be checked against the vendor's manual before it is
pasted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from portico.balancing.nlb.plan import Address

INTERFACE, VLAN, PORTS = "<interface>", "<vlan>", "<server-port-1> <server-port-2>"
"""What only the administrator of the router knows stands in angle brackets."""


@dataclass(frozen=True)
class Entry:
    """Commands for one family of routers."""

    router: str
    commands: tuple[str, ...]


def static_entries(vips: Sequence[Address], mac: bytes) -> list[Entry]:
    """What to paste, for each common family of routers, IPv4 and IPv6."""
    return [
        Entry(router, tuple(line for vip in vips for line in lines(vip, mac)) + after(mac))
        for router, lines, after in _ROUTERS
    ]


def _dotted(mac: bytes, separator: str = ".") -> str:
    """`03bf.cb00.710a`."""
    text = mac.hex()
    return separator.join((text[:4], text[4:8], text[8:]))


def _cisco_ios(vip: Address, mac: bytes) -> list[str]:
    if vip.version == 4:
        return [f"arp {vip} {_dotted(mac)} ARPA"]
    return [f"ipv6 neighbor {vip} {INTERFACE} {_dotted(mac)}"]


def _ports_cisco(mac: bytes) -> tuple[str, ...]:
    return (f"mac address-table static {_dotted(mac)} vlan {VLAN} interface {PORTS}",)


def _nx_os(vip: Address, mac: bytes) -> list[str]:
    if vip.version == 4:
        return [f"interface {INTERFACE}", f"  ip arp {vip} {_dotted(mac)}"]
    return [f"interface {INTERFACE}", f"  ipv6 neighbor {vip} {_dotted(mac)}"]


def _ports_nx_os(mac: bytes) -> tuple[str, ...]:
    return (f"mac address-table multicast {_dotted(mac)} vlan {VLAN} interface {PORTS}",)


def _junos(vip: Address, mac: bytes) -> list[str]:
    family, table = ("inet", "arp") if vip.version == 4 else ("inet6", "ndp")
    kind = "multicast-mac" if mac[0] & 1 else "mac"
    own = "<router-address>/<length>"
    return [f"set interfaces {INTERFACE} unit <unit> family {family} address {own} {table} {vip} {kind} {mac.hex(':')}"]


def _eos(vip: Address, mac: bytes) -> list[str]:
    if vip.version == 4:
        return [f"arp {vip} {_dotted(mac)} arpa"]
    return [f"ipv6 neighbor {vip} {INTERFACE} {_dotted(mac)}"]


def _os9(vip: Address, mac: bytes) -> list[str]:
    if vip.version == 4:
        return [f"arp {vip} {mac.hex(':')} {INTERFACE}"]
    return [f"ipv6 neighbor {vip} {INTERFACE} {mac.hex(':')}"]


def _ports_os9(mac: bytes) -> tuple[str, ...]:
    return (f"mac-address-table static {mac.hex(':')} vlan {VLAN} output-range {PORTS}",)


def _comware(vip: Address, mac: bytes) -> list[str]:
    if vip.version == 4:
        return [f"arp multiport {vip} {_dotted(mac, '-')} {VLAN}"]
    return [f"ipv6 neighbor {vip} {_dotted(mac, '-')} interface Vlan-interface{VLAN}"]


def _ports_comware(mac: bytes) -> tuple[str, ...]:
    return (f"mac-address multiport {_dotted(mac, '-')} interface {PORTS} vlan {VLAN}",)


def _aos_cx(vip: Address, mac: bytes) -> list[str]:
    if vip.version == 4:
        return [f"interface vlan {VLAN}", f"  arp ipv4 {vip} mac {mac.hex(':')}"]
    return [f"interface vlan {VLAN}", f"  ipv6 neighbor {vip} mac {mac.hex(':')}"]


def _routeros(vip: Address, mac: bytes) -> list[str]:
    path = "/ip arp" if vip.version == 4 else "/ipv6 neighbor"
    return [f"{path} add address={vip} mac-address={mac.hex(':').upper()} interface={INTERFACE}"]


def _fortios(vip: Address, mac: bytes) -> list[str]:
    table, key = ("arp-table", "ip") if vip.version == 4 else ("ipv6-neighbor-cache", "ipv6")
    return [
        f"config system {table}",
        "  edit 0",
        f'    set interface "{INTERFACE}"',
        f"    set {key} {vip}",
        f"    set mac {mac.hex(':')}",
        "  next",
        "end",
    ]


def _linux(vip: Address, mac: bytes) -> list[str]:
    return [f"ip neigh replace {vip} lladdr {mac.hex(':')} nud permanent dev {INTERFACE}"]


def _windows(vip: Address, mac: bytes) -> list[str]:
    return [f'netsh interface ipv{vip.version} add neighbors "{INTERFACE}" {vip} {mac.hex("-")}']


def _nothing(_: bytes) -> tuple[str, ...]:
    return ()


_Lines = Callable[[Address, bytes], list[str]]
_After = Callable[[bytes], tuple[str, ...]]
_ROUTERS: tuple[tuple[str, _Lines, _After], ...] = (
    ("Cisco IOS, IOS XE", _cisco_ios, _ports_cisco),
    ("Cisco NX-OS", _nx_os, _ports_nx_os),
    ("Juniper Junos", _junos, _nothing),
    ("Arista EOS", _eos, _ports_cisco),
    ("Dell OS9", _os9, _ports_os9),
    ("HPE Comware", _comware, _ports_comware),
    ("HPE Aruba AOS-CX", _aos_cx, _nothing),
    ("MikroTik RouterOS", _routeros, _nothing),
    ("Fortinet FortiGate", _fortios, _nothing),
    ("Linux", _linux, _nothing),
    ("Windows", _windows, _nothing),
)
