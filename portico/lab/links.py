"""Cables and switches: bridges in the lab's `switch` namespace, veth pairs from there into the hosts.

Offloads stay on, as on real cards: super-segments are what the tunnel is built for.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence

from portico.lab.hosts import Host, LabFailure
from portico.lab.state import LabState
from portico.lab.topology import Host as Computer
from portico.lab.topology import Interface, Topology

SWITCH = "switch"


def ip(state: LabState, host: str, *lines: str) -> None:
    """Runs `ip` commands in a host's network as one batch that stops at the first failure.

    Raises:
        LabFailure: one failed.
    """
    if not lines:
        return
    result = subprocess.run(
        ["ip", "-n", state.netns(host), "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise LabFailure(f"The network of {host} cannot be set up", why=result.stderr.strip())


def port(host: str, interface: str) -> str:
    """The name of the switch's end of a cable."""
    return f"{host}-{interface}"


def mac(host: str, interface: str) -> str:
    """The address of a card: the same after a power cut, as neighbours remember it for a while."""
    digest = hashlib.sha256(f"{host}/{interface}".encode()).digest()
    return ":".join(["0a", *(f"{byte:02x}" for byte in digest[:5])])


def build_switch(state: LabState, topology: Topology) -> None:
    """Makes the bridges. They forward at once and to everywhere: no spanning tree, no multicast snooping."""
    lines = ["link set lo up"]
    for network in topology.networks:
        lines += [
            f"link add {network} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {network} up",
        ]
    ip(state, SWITCH, *lines)


def plug_in(state: LabState, computer: Computer) -> None:
    """Gives a host its cards, addresses and routes."""
    for card in computer.interfaces:
        _cable(state, computer.name, card)
    lines = ["link set lo up"]
    for card in computer.interfaces:
        lines.append(f"link set {card.name} up")
        for parsed in card.parsed():
            lines.append(f"addr add {parsed} dev {card.name}" + (" nodad" if parsed.version == 6 else ""))
    lines += [_route(destination, gateway) for destination, gateway in computer.routes]
    lines += [f"route add local {prefix} dev lo" for prefix in computer.owns]
    ip(state, computer.name, *lines)


def unplug(state: LabState, computer: Computer) -> None:
    """Takes all cables of a host away, so that its end says nothing to anybody."""
    for card in computer.interfaces:
        subprocess.run(
            ["ip", "-n", state.netns(SWITCH), "link", "del", port(computer.name, card.name)],
            capture_output=True,
            check=False,  # a host that never came up has none
        )


def cut(state: LabState, host: str, interface: str) -> None:
    """Pulls one cable at the switch: the host sees its carrier go."""
    ip(state, SWITCH, f"link set {port(host, interface)} down")


def heal(state: LabState, host: str, interface: str) -> None:
    """Plugs the cable in again."""
    ip(state, SWITCH, f"link set {port(host, interface)} up")


def change_address(state: LabState, host: str, interface: str, old: str, new: str, routes: Sequence[str] = ()) -> None:
    """Moves a host to another address (with prefix length), as a new lease does; `routes` are `ip route` commands."""
    ip(state, host, f"addr del {old} dev {interface}", f"addr add {new} dev {interface}", *routes)


def masquerade(host: Host, interface: str) -> None:
    """Hides everything behind one card's address, as a home router does; unasked packets from outside get nothing."""
    ruleset = f"""
    table inet home {{
        chain out {{
            type nat hook postrouting priority srcnat; policy accept;
            oifname "{interface}" masquerade
        }}
        chain through {{
            type filter hook forward priority filter; policy accept;
            iifname "{interface}" ct state new drop
        }}
    }}
    """
    host.run("nft", "-f", "-", input_text=ruleset)


def refuse_multicast_neighbours(host: Host) -> None:
    """Makes a host ignore ARP and neighbour discovery messages whose hardware address is a multicast one.

    Routers do so by RFC 1812 section 3.3.2; a static entry (`add_static_neighbour`) is what their administrators are
    advised to make.
    """
    # In a neighbour solicitation or advertisement, the first option stands 24 bytes into the ICMPv6 message: type,
    # length, hardware address (RFC 4861 sections 4.3, 4.4, 4.6.1).
    ruleset = """
    table arp strict {
        counter refused { }
        chain in {
            type filter hook input priority 0; policy accept;
            arp saddr ether & 01:00:00:00:00:00 == 01:00:00:00:00:00 counter name refused drop
        }
    }
    table ip6 strict {
        counter refused { }
        chain in {
            type filter hook input priority 0; policy accept;
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } @th,192,8 { 1, 2 } @th,208,8 & 1 == 1 \
counter name refused drop
        }
    }
    """
    host.run("nft", "-f", "-", input_text=ruleset)


def refused_neighbours(host: Host) -> int:
    """How many messages a strict host has refused."""
    found = host.json("nft", "-j", "list", "counters")["nftables"]
    counters = (item["counter"] for item in found if "counter" in item)
    return sum(int(counter["packets"]) for counter in counters if counter["table"] == "strict")


def add_static_neighbour(state: LabState, host: str, interface: str, address: str, mac: str) -> None:
    """Makes a static ARP or neighbour entry, as the advice for strict routers says."""
    ip(state, host, f"neigh replace {address} lladdr {mac} dev {interface} nud permanent")


def _cable(state: LabState, host: str, card: Interface) -> None:
    name = port(host, card.name)
    lines = [
        f"link add {name} type veth peer name {card.name} address {mac(host, card.name)} netns {state.netns(host)}",
        f"link set {name} master {card.network} up",
    ]
    if not card.mcast_flood:
        lines.append(f"link set {name} type bridge_slave mcast_flood off")
    ip(state, SWITCH, *lines)


def _route(destination: str, gateway: str) -> str:
    return f"route add {destination} via {gateway}"
