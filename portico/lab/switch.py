"""What the switches do beyond forwarding: prune by MAC, remember where hosts are, and fail in the ways switches fail.

Every fault here is a table of its own in the switch's firewall, or an entry of its address table, and is undone by
`Fault.heal`. Names of ports in rules stay valid when a host loses its power and comes back.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from portico.errors import InvalidInput, NotFound
from portico.lab.hosts import Host, LabFailure
from portico.lab.links import SWITCH, port
from portico.lab.state import LabState
from portico.lab.topology import Topology

HEARTBEAT_ETHERTYPE = 0x886F
"""Frames of Windows NLB, whose envelope Portico's heartbeats use."""

_FAULT = "fault-"

# The low 16 bits of a group's address are those of its MAC: 239.255.y.z is 01-00-5E-7F-y-z. A switch takes them from
# the report (IGMPv2, RFC 2236 section 2; the first record of IGMPv3, RFC 3376 section 4.2) and from the frame alike.
_PRUNE = """
table bridge prune {{
    set ports {{ type ifname; elements = {{ {ports} }} }}
    set members {{ typeof iifname . @ll,32,16; flags dynamic,timeout; size 1024; }}
    counter pruned {{ }}
    chain learn {{
        type filter hook prerouting priority 0; policy accept;
        iifname @ports ip protocol igmp jump report
    }}
    chain report {{
        @th,0,8 0x16 @th,32,16 0xefff update @members {{ iifname . @th,48,16 timeout 260s }}
        @th,0,8 0x22 @th,64,8 {{ 2, 4 }} @th,96,16 0xefff update @members {{ iifname . @th,112,16 timeout 260s }}
        @th,0,8 0x17 @th,32,16 0xefff delete @members {{ iifname . @th,48,16 }}
        @th,0,8 0x22 @th,64,8 {{ 3 }} @th,96,16 0xefff delete @members {{ iifname . @th,112,16 }}
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        oifname @ports ether daddr & ff:ff:ff:ff:00:00 == 01:00:5e:7f:00:00 oifname . @ll,32,16 != @members \
counter name pruned drop
    }}
}}
"""


@dataclass
class Fault:
    """Something that is wrong with a switch until it is healed. As a context manager it heals at the end.

    Attributes:
        what: its name, as `faults` lists it.
    """

    what: str
    _undo: Callable[[], None] = field(repr=False)
    healed: bool = False

    def heal(self) -> None:
        """Puts it right; once is enough.

        Raises:
            LabFailure: the switch does not hold it any more.
        """
        if not self.healed:
            self._undo()
            self.healed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()


def prune(state: LabState, topology: Topology) -> None:
    """Makes the switches of `topology.pruning` send 01-00-5E-7F-... frames to members of the group only.

    A Linux bridge looks IPv4 frames up by their IP destination and never finds a unicast address among groups; switches
    that look up the MAC do.
    """
    ports = [port(host.name, card.name) for network in topology.pruning for host, card in topology.cards(network)]
    if ports:
        _nft(state, _PRUNE.format(ports=_names(ports)))


def members(state: LabState) -> set[tuple[str, str]]:
    """(port, MAC) of every group membership the pruning switches have learned."""
    found = _json(state, "list", "set", "bridge", "prune", "members")
    entries = next(item["set"] for item in found["nftables"] if "set" in item).get("elem", ())
    learned = set()
    for entry in entries:
        name, low = (entry["elem"]["val"] if "elem" in entry else entry)["concat"]
        learned.add((str(name), f"01:00:5e:7f:{int(low) >> 8:02x}:{int(low) & 255:02x}"))
    return learned


def pruned(state: LabState) -> int:
    """Frames the pruning switches have kept from ports (one a port)."""
    found = _json(state, "list", "counter", "bridge", "prune", "pruned")
    return int(next(item["counter"] for item in found["nftables"] if "counter" in item)["packets"])


def learned(state: LabState, mac: str) -> str | None:
    """The port behind which a switch believes a MAC to be, as `links.port` names it; None: it floods frames for it."""
    result = subprocess.run(
        ["bridge", "-n", state.netns(SWITCH), "-j", "fdb", "show"], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise LabFailure("The switch does not say what it has learned", why=result.stderr.strip())
    for entry in json.loads(result.stdout):
        # permanent entries are the addresses of the ports themselves
        if entry["mac"] == mac.lower() and "master" in entry and entry.get("state") != "permanent":
            return str(entry["ifname"])
    return None


def learn(state: LabState, mac: str, host: str, interface: str) -> Fault:
    """The switch believes, wrongly and firmly, that a MAC is behind a port: nobody else gets its frames."""
    name = _port(state.topology, host, interface)
    _bridge(state, "fdb", "replace", mac, "dev", name, "master", "static")
    return Fault(f"{name} has {mac}", lambda: _bridge(state, "fdb", "del", mac, "dev", name, "master"))


def set_mcast_flood(state: LabState, host: str, interface: str, on: bool) -> None:
    """Whether a port gets multicast frames that nobody asked for; `on=False` is the advice for ports of strangers."""
    name = _port(state.topology, host, interface)
    _bridge(state, "link", "set", "dev", name, "mcast_flood", "on" if on else "off")


def deafen(state: LabState, host: str, interface: str, mac: str) -> Fault:
    """The switch no longer delivers frames for a MAC to a port, whatever else it delivers there."""
    name = _port(state.topology, host, interface)
    return _fault(state, f"deaf-{name}", [f'oifname "{name}" ether daddr {mac} counter drop'])


def partition(
    state: LabState, a: Iterable[str], b: Iterable[str], network: str, *, heartbeats: int | None = None
) -> Fault:
    """Nothing passes between the hosts `a` and the hosts `b` on a network, both ways.

    Args:
        heartbeats: only heartbeats do not pass: frames of the NLB EtherType and datagrams to this UDP port.

    Raises:
        InvalidInput: a host is on both sides.
        NotFound: a host is not on that network.
    """
    left, right = (_ports(state.topology, hosts, network) for hosts in (a, b))
    if set(left) & set(right):
        raise InvalidInput(
            "The network cannot be split", why=f"on both sides: {', '.join(sorted(set(left) & set(right)))}"
        )
    what = [""] if heartbeats is None else [f"ether type {HEARTBEAT_ETHERTYPE:#06x} ", f"udp dport {heartbeats} "]
    rules = [
        f"iifname {{ {_names(one)} }} oifname {{ {_names(other)} }} {match}counter drop"
        for one, other in ((left, right), (right, left))
        for match in what
    ]
    return _fault(state, f"partition-{network}", rules)


def faults(state: LabState) -> list[str]:
    """Names of the partitions and deaf ports that are there now."""
    tables = _json(state, "list", "tables", "bridge")["nftables"]
    found = (item["table"]["name"] for item in tables if "table" in item)
    return sorted(name.removeprefix(_FAULT) for name in found if name.startswith(_FAULT))


def _fault(state: LabState, what: str, rules: list[str]) -> Fault:
    name = f"{what}-{secrets.token_hex(2)}"
    lines = "\n".join(rules)
    _nft(
        state,
        f"table bridge {_FAULT}{name} {{\nchain forward {{\n"
        f"type filter hook forward priority -10; policy accept;\n{lines}\n}}\n}}\n",
    )
    return Fault(name, lambda: _nft(state, f"delete table bridge {_FAULT}{name}\n"))


def _ports(topology: Topology, hosts: Iterable[str], network: str) -> list[str]:
    cards = {host.name: card.name for host, card in topology.cards(network)}
    found = []
    for host in hosts:
        if host not in cards:
            raise NotFound(f"The host {host} is not on the network {network}", why=f"there are {', '.join(cards)}")
        found.append(port(host, cards[host]))
    if not found:
        raise InvalidInput("The network cannot be split", why="one side has no hosts")
    return found


def _port(topology: Topology, host: str, interface: str) -> str:
    for computer in topology.hosts:
        if computer.name == host and any(card.name == interface for card in computer.interfaces):
            return port(host, interface)
    raise NotFound(f"There is no interface {interface} of a host {host}")


def _names(ports: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in ports)


def _nft(state: LabState, ruleset: str) -> None:
    Host(state, SWITCH).run("nft", "-f", "-", input_text=ruleset)


def _json(state: LabState, *command: str) -> Any:
    return Host(state, SWITCH).json("nft", "-j", *command)


def _bridge(state: LabState, *command: str) -> None:
    result = subprocess.run(
        ["bridge", "-n", state.netns(SWITCH), *command], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise LabFailure(f"The switch refuses: bridge {' '.join(command)}", why=result.stderr.strip())
