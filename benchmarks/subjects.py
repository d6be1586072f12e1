"""Everything that can be measured, in the order in which it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import rows
from benchmarks.loads import LOADS, TUNNEL, Figures, measure
from benchmarks.network import Network
from benchmarks.peers import Opener, api_lists, dns, handshakes, idle, location, nlb, reaction, settings_scale
from benchmarks.peers.nat64_alone import nat64_alone, tayga
from benchmarks.peers.ocserv import ocserv, ocserv_dtls
from benchmarks.peers.openvpn import openvpn_tcp, openvpn_udp
from benchmarks.peers.plain import plain
from benchmarks.peers.portico_tunnel import (
    portico,
    portico_foreign,
    portico_nat64,
    portico_standard,
    portico_standard_nat64,
)
from benchmarks.peers.softether import softether
from benchmarks.peers.wireguard_go import version as wireguard_version
from benchmarks.peers.wireguard_go import wireguard_go
from benchmarks.programs import debian_version, portico_version

BULK = frozenset({"up", "down", "cpu_per_gb"})
SMALL = frozenset({"small_up", "small_down"})
# Bringing a path up and down.
SET_UP = 2.5


@dataclass(frozen=True)
class Subject:
    """Something that is measured.

    figures: what it can give.
    measure: one turn, from the wanted figures and the length of a load in seconds.
    cost: about how many seconds that takes.
    version: of the program under measurement.
    """

    figures: frozenset[str]
    measure: Callable[[Network, frozenset[str], float], Figures]
    cost: Callable[[frozenset[str], float], float]
    version: Callable[[], str]


def _path(opener: Opener, version: Callable[[], str], figures: frozenset[str] = TUNNEL) -> Subject:
    def turn(net: Network, wanted: frozenset[str], seconds: float) -> Figures:
        with opener(net) as path:
            return measure(net, path, wanted, seconds)

    def cost(wanted: frozenset[str], seconds: float) -> float:
        return SET_UP + sum(load.cost(seconds) for load in LOADS.values() if load.figures & wanted)

    return Subject(figures, turn, cost, version)


def _debian(*packages: str) -> Callable[[], str]:
    return lambda: ", ".join(f"{package} {debian_version(package)}" for package in packages)


def _kernel() -> str:
    return "the kernel's routing"


SUBJECTS: dict[str, Subject] = {
    rows.PLAIN: _path(plain, _kernel, TUNNEL - {"cpu_per_gb"}),
    rows.OWN: _path(portico, portico_version),
    rows.OWN_NAT64: _path(portico_nat64, portico_version, BULK),
    rows.STANDARD: _path(portico_standard, portico_version),
    rows.STANDARD_NAT64: _path(portico_standard_nat64, portico_version, BULK),
    rows.FOREIGN: _path(portico_foreign, portico_version, BULK | SMALL | {"ping"}),
    rows.WIREGUARD: _path(wireguard_go, wireguard_version),
    rows.SOFTETHER: _path(softether, _debian("softether-vpnserver")),
    rows.OCSERV: _path(ocserv, _debian("ocserv", "openconnect")),
    rows.OCSERV_DTLS: _path(ocserv_dtls, _debian("ocserv", "openconnect")),
    rows.OPENVPN_TCP: _path(openvpn_tcp, _debian("openvpn")),
    rows.OPENVPN_UDP: _path(openvpn_udp, _debian("openvpn")),
    rows.NAT64_ALONE: _path(nat64_alone, portico_version, BULK | SMALL | {"ping"}),
    rows.TAYGA: _path(tayga, _debian("tayga"), BULK | SMALL | {"ping"}),
    rows.DNS64: Subject(
        frozenset({"answers", "answers_per_core"}), dns.dns64, lambda _, seconds: seconds + 2.5, portico_version
    ),
    rows.UNBOUND: Subject(
        frozenset({"answers", "answers_per_core"}), dns.unbound, lambda _, seconds: seconds + 2.5, _debian("unbound")
    ),
    rows.HANDSHAKES: Subject(
        frozenset({"handshakes", "tunnels", "known_tunnels", "library_handshakes", "same_cipher"}),
        handshakes.handshakes,
        lambda *_: 10.0,
        portico_version,
    ),
    rows.LISTS: Subject(
        frozenset({"list_ms", "list_ms_95"}),
        api_lists.api_lists,
        lambda _, seconds: seconds + 6.0,
        portico_version,
    ),
    rows.LOCATION: Subject(location.FIGURES, location.location, lambda *_: 45.0, portico_version),
    rows.SETTINGS: Subject(
        frozenset({"change_s", "start_s"}), settings_scale.turn("sqlite"), lambda *_: 40.0, portico_version
    ),
    rows.SETTINGS_ETCD: Subject(
        frozenset({"change_s", "start_s"}), settings_scale.turn("etcd"), lambda *_: 50.0, portico_version
    ),
    rows.FAST_FILTER: Subject(nlb.FIGURES, nlb.turn("eBPF"), nlb.cost, portico_version),
    rows.PORTABLE_FILTER: Subject(nlb.FIGURES, nlb.turn("nftables"), nlb.cost, portico_version),
    rows.REACTION: Subject(reaction.FIGURES, reaction.reaction, lambda *_: reaction.COST, portico_version),
    rows.IDLE: Subject(frozenset({"tunnel_kib"}), idle.idle, lambda *_: 8.0, portico_version),
}
