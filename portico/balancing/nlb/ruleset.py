"""The portable filter as nftables text: tables `netdev portico_nlb` and, while TCP connections are being handed over,
`inet portico_nlb`. Pure.

At ingress, before anything of the machine has worked on the packet:

    in      to a VIP? -> four, six.  To a client, framed for the cluster? -> clients.  Everything else is not touched.
    four    packet type, lease; a fragment? -> piece, otherwise -> whole
    whole   by protocol: ICMP errors (they come from routers, so every server takes them), the first port rule that
            fits -> rule
    rule    mark = BASE + rule * 4096 + slot of the client; the map of buckets says what becomes of it:
            own | dirty | dirty_held | quiet | quiet_held, see plan.Verdict; a slot not there is another server's

The mark lives from there to here: the chains clear it before they accept. Only TCP of a dirty or quiet bucket keeps
one, of another range, as far as `inet portico_nlb`, which asks the kernel for a socket instead of tracking connections:
most servers balance thousands of flows that never move, and `ct` anywhere makes the kernel track every packet of the
machine.

An "owner" is one map; replacing it is one transaction, so no packet sees half of a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from portico.balancing.nlb import mac
from portico.balancing.nlb.plan import (
    ALL_PORTS,
    IKE_PORT,
    SLOTS,
    Affinity,
    BalancingPlan,
    NicPlan,
    Owned,
)

TABLE = "portico_nlb"

BASE = 0x4E00_0000
"""Marks of packets on their way through the ingress chains; 0, what unmarked packets carry, is none of them."""
RULE_STRIDE = 0x1000
TRACKED = 0x4E40_0000
"""Marks of TCP packets that need a socket: TRACKED + interface * 16 + _DIRTY or _QUIET."""
_DIRTY, _QUIET = 1, 2

BEFORE_EVERYTHING = -300
BEFORE_STEERING = -175
"""Priority of the prerouting hook: behind connection tracking (-200), should somebody use it, and before routing marks
(mangle, -150) which others set and which ours must not be taken for."""

LINK_LOCAL = "fe80::/10"
"""Never routed, so nothing for it can be passed on. Servers need theirs to find their neighbours."""

COUNTERS = (
    "seen",
    "accepted",
    "errors",
    "kept",
    "clients",
    "foreign",
    "lease",
    "disabled",
    "hushed",
    "elsewhere",
    "stray",
)
"""Per interface, each with the interface's number behind its name. See filter.Counters for their meaning."""

_KEY: dict[tuple[Affinity, int], str] = {
    ("single", 4): "ip saddr",
    ("single", 6): "ip6 saddr",
    ("network", 4): "ip saddr & 255.255.255.0",
    ("network", 6): "ip6 saddr & ffff:ffff:ffff:ffff::",
    ("none", 4): "ip saddr . th sport",
    ("none", 6): "ip6 saddr . th sport",
}


def render(plan: BalancingPlan, owned: Owned, clients: Iterable[IPv6Address] = ()) -> str:
    """The transaction that installs or replaces everything. No packet passes between the old and the new."""
    lines = [
        f"table netdev {TABLE}",
        f"delete table netdev {TABLE}",
        f"table netdev {TABLE} {{",
        "set alive { type ether_type; flags timeout; }",
    ]
    if plan.client_prefix is not None and plan.server_prefix is None:
        lines.append(f"set clients {{ type ipv6_addr; size {plan.max_clients}; }}")
    for number, nic in enumerate(plan.nics):
        lines += _interface(plan, number, nic)
    lines.append("}")
    lines += tracking(plan, owned, installed=True)
    lines += ownership(plan, owned, flush=False)
    lines.append(renewal(plan, flush=False))
    lines += client_changes(clients, ())
    return "\n".join(lines) + "\n"


def removal() -> str:
    """The transaction that removes both tables."""
    return "".join(f"table {f} {TABLE}\ndelete table {f} {TABLE}\n" for f in ("netdev", "inet"))


def renewal(plan: BalancingPlan, *, flush: bool = True) -> str:
    """Extends the lease. The element goes and comes back because older kernels cannot change a timeout in place."""
    # A short key: every packet is looked up.
    elements = ", ".join(f"{family} timeout {plan.lease_ms}ms" for family in ("ip", "ip6"))
    text = f"add element netdev {TABLE} alive {{ {elements} }}\n"
    return f"flush set netdev {TABLE} alive\n{text}" if flush else text


def surrender() -> str:
    """Ends the lease now."""
    return f"flush set netdev {TABLE} alive\n"


def ownership(plan: BalancingPlan, owned: Owned, *, flush: bool = True) -> list[str]:
    """The commands that replace the maps of buckets."""
    lines = []
    for number in range(len(plan.nics)):
        if flush:
            lines.append(f"flush map netdev {TABLE} buckets{number}")
        elements = [
            f"{BASE + rule * RULE_STRIDE + first:#x}-{BASE + rule * RULE_STRIDE + last:#x} : goto {verdict}{number}"
            for rule, share in enumerate(owned.shares(plan))
            for first, last, verdict in share.verdicts()
        ]
        if elements:
            lines.append(f"add element netdev {TABLE} buckets{number} {{ {', '.join(elements)} }}")
    return lines


def needs_tracking(owned: Owned) -> bool:
    """Whether TCP connections are being handed over."""
    return any(share.dirty or share.quiet for share in (*owned.rules, owned.default))


def tracking(plan: BalancingPlan, owned: Owned, *, installed: bool) -> list[str]:
    """The commands that make `inet portico_nlb` what the shares need: there while anything is handed over."""
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}"] if installed else []
    if not needs_tracking(owned):
        return lines
    lines += [
        f"table inet {TABLE} {{",
        *(f"counter {name}{n} {{ }}" for n in range(len(plan.nics)) for name in ("kept", "hushed")),
        f"chain settle {{ type filter hook prerouting priority {BEFORE_STEERING}; policy accept;",
        f"meta mark & 0xffffff00 != {TRACKED:#x} accept",
    ]
    numbers = range(len(plan.nics))
    lines += [f"meta mark {_tracked(n, kind):#x} goto {name}{n}" for n in numbers for kind, name in _KINDS]
    lines.append("}")
    for number in numbers:
        # A socket with a peer, one that only listens, and what has no full socket: half open, or in TIME-WAIT.
        found = [
            f"socket wildcard 0 counter name kept{number} accept",
            f"socket wildcard 1 counter name hushed{number} drop",
            f"socket transparent {{ 0, 1 }} counter name kept{number} accept",
            f"counter name hushed{number} drop",
            "}",
        ]
        begins = "tcp flags & (syn | ack) == syn"
        # Where nothing reassembles before this hook, the first fragment would begin what the others cannot join.
        pieces = [
            f"{match} counter name hushed{number} drop" for match in ("ip frag-off & 0x3fff != 0", "exthdr frag exists")
        ]
        lines += [
            f"chain dirty{number} {{",
            "meta mark set 0",
            *pieces,
            f"{begins} counter name hushed{number} drop",
            *found,
        ]
        lines += [
            f"chain quiet{number} {{",
            "meta mark set 0",
            *pieces,
            f"{begins} counter name kept{number} accept",
            *found,
        ]
    lines.append("}")
    return lines


_KINDS = ((_DIRTY, "dirty"), (_QUIET, "quiet"))


def client_changes(add: Iterable[IPv6Address], remove: Iterable[IPv6Address]) -> list[str]:
    """The commands that change the set of held clients. Those to remove must be in it, or the kernel refuses."""
    lines = []
    for verb, addresses in (("delete", list(remove)), ("add", list(add))):
        for start in range(0, len(addresses), 1000):
            chunk = ", ".join(map(str, addresses[start : start + 1000]))
            lines.append(f"{verb} element netdev {TABLE} clients {{ {chunk} }}")
    return lines


def portless(affinity: Affinity) -> Affinity:
    """How packets without ports (ESP, fragments, ICMP) are hashed under a rule."""
    return "single" if affinity == "none" else affinity


def _interface(plan: BalancingPlan, n: int, nic: NicPlan) -> Iterator[str]:
    cluster = mac.text(nic.cluster_mac)
    yield from (f"counter {name}{n} {{ }}" for name in COUNTERS)
    yield f"map buckets{n} {{ type mark : verdict; flags interval; }}"
    versions = [version for version in (4, 6) if nic.has(version)]
    yield from _verdicts(n)
    for version in versions:
        yield from _rules(plan, n, nic, version)
    yield f"chain clients{n} {{"
    if plan.client_prefix is not None:
        yield "meta pkttype set host"
        yield f"meta protocol != @alive counter name lease{n} drop"
        held = "@clients" if plan.server_prefix is None else str(plan.server_prefix)
        yield f"ip6 daddr {held} counter name clients{n} accept"
        yield f"counter name elsewhere{n} drop"
    yield "}"
    yield f"chain in{n} {{"
    yield f'type filter hook ingress device "{nic.interface}" priority {BEFORE_EVERYTHING}; policy accept;'
    for version in versions:
        family, chain = ("ip", "four") if version == 4 else ("ip6", "six")
        targets = [item for item in (*nic.vips, *nic.behind) if item.version == version]
        yield f"{family} daddr vmap {{ {', '.join(f'{target} : goto {chain}{n}' for target in targets)} }}"
    if plan.client_prefix is not None and nic.side == "internal":
        yield f"ether daddr {cluster} ip6 daddr {plan.client_prefix} goto clients{n}"
    if nic.takeover:
        # All servers have this hardware address. A router among them would pass on what is for another, and the others
        # what it passed on: one ping came back 128 times.
        own4 = [str(address) for address in nic.dedicated if address.version == 4]
        own6 = [*(str(address) for address in nic.dedicated if address.version == 6), LINK_LOCAL]
        other = f"ip daddr != {{ {', '.join(own4)} }}" if own4 else "meta protocol ip"
        yield f"ether daddr {cluster} {other} counter name stray{n} drop"
        yield f"ether daddr {cluster} ip6 daddr != {{ {', '.join(own6)} }} counter name stray{n} drop"
    yield "}"
    if nic.takeover:
        yield f'chain out{n} {{ type filter hook egress device "{nic.interface}" priority 0; policy accept;'
        yield f"ether saddr {cluster} ether saddr set {mac.text(nic.source_mac)}"
        yield "}"


def _verdicts(n: int) -> Iterator[str]:
    dirty, quiet = (f"meta l4proto tcp meta mark set {_tracked(n, kind):#x} accept" for kind in (_DIRTY, _QUIET))
    foreign = f"counter name foreign{n} drop"
    yield f"chain own{n} {{ meta mark set 0 counter name accepted{n} accept; }}"
    yield f"chain dirty{n} {{ {dirty}; {foreign}; }}"
    yield f"chain dirty_held{n} {{ {dirty}; goto own{n}; }}"
    yield f"chain quiet{n} {{ {quiet}; goto own{n}; }}"
    yield f"chain quiet_held{n} {{ {quiet}; {foreign}; }}"


def _rules(plan: BalancingPlan, n: int, nic: NicPlan, version: int) -> Iterator[str]:
    """What happens to a packet for a VIP. Every expression is paid for by every packet: hence few, and maps."""
    chain = "four" if version == 4 else "six"
    for i, rule in enumerate(plan.rules):
        if rule.vip is None or rule.vip.version == version:
            for affinity in dict.fromkeys((rule.affinity, portless(rule.affinity))):
                yield from _hash(plan, n, version, i, affinity)
    yield from _hash(plan, n, version, plan.default_rule, "single")
    icmp = "icmp" if version == 4 else "ipv6-icmp"
    if version == 4:
        # Some kernels take what a later fragment begins with for a header.
        first, errors = (
            "ip frag-off & 0x1fff == 0 ",
            "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
        )
    else:
        first, errors = "", "icmpv6 type { 1, 2, 3, 4 }"
    for prefix, kinds in (("whole", _KINDS_OF_PACKETS), ("piece", _KINDS_OF_PACKETS)):
        for kind in kinds:
            yield f"chain {prefix}_{kind}{version}_{n} {{"
            if kind == "icmp":
                yield f"{first if prefix == 'piece' else ''}{errors} counter name errors{n} accept"
                if version == 6:
                    yield "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
            yield from _dispatch(plan, n, version, kind, pieces=prefix == "piece")
            yield "}"
        targets = ", ".join(f"{name} : goto {prefix}_{kind}{version}_{n}" for name, kind in _protocols(icmp))
        yield f"chain {prefix}{version}_{n} {{ meta l4proto vmap {{ {targets} }}; goto {prefix}_other{version}_{n}; }}"
    yield f"chain {chain}{n} {{"
    yield f"ether daddr {mac.text(nic.cluster_mac)} counter name seen{n} meta pkttype set host"
    yield f"meta protocol != @alive counter name lease{n} drop"
    fragment = "ip frag-off & 0x3fff != 0" if version == 4 else "exthdr frag exists"
    yield f"{fragment} goto piece{version}_{n}"
    yield f"goto whole{version}_{n}"
    yield "}"


_KINDS_OF_PACKETS = ("tcp", "udp", "esp", "icmp", "other")


def _protocols(icmp: str) -> tuple[tuple[str, str], ...]:
    return (("tcp", "tcp"), ("udp", "udp"), ("esp", "esp"), (icmp, "icmp"))


def _dispatch(plan: BalancingPlan, n: int, version: int, kind: str, *, pieces: bool) -> Iterator[str]:
    """The port rules for one kind of packets in order, up to one that fits them all.

    Only some of the fragments would be a rule's for some ports, and none says so: the first rule of the protocol takes
    them all, so that the fragments of a datagram meet.
    """
    ported = kind in ("tcp", "udp")
    for i, rule in enumerate(plan.rules):
        if rule.vip is not None and rule.vip.version != version:
            continue
        first, last = rule.ports
        if kind == "esp":
            fits = "udp" in rule.protocols and first <= IKE_PORT <= last
        else:
            fits = (kind if ported else "other") in rule.protocols
        if not fits or (ported and pieces and rule.mode == "disabled" and rule.ports != ALL_PORTS):
            continue
        condition = "" if rule.vip is None else f"{'ip' if version == 4 else 'ip6'} daddr {rule.vip} "
        if ported and not pieces and rule.ports != ALL_PORTS:
            condition += f"th dport {first}-{last} "
        affinity = rule.affinity if ported and not pieces else portless(rule.affinity)
        yield f"{condition}goto {_name(i, affinity, n, version)}"
        if not condition:
            return
    yield f"goto {_name(plan.default_rule, 'single', n, version)}"


def _hash(plan: BalancingPlan, n: int, version: int, rule: int, affinity: Affinity) -> Iterator[str]:
    yield f"chain {_name(rule, affinity, n, version)} {{"
    if rule < len(plan.rules) and plan.rules[rule].mode == "disabled":
        yield f"counter name disabled{n} drop"
    else:
        offset = BASE + rule * RULE_STRIDE
        key = _KEY[affinity, version]
        yield f"meta mark set jhash {key} mod {SLOTS} seed {plan.seed:#x} offset {offset:#x}"
        yield f"meta mark vmap @buckets{n}"
        yield f"counter name foreign{n} drop"
    yield "}"


def _name(rule: int, affinity: Affinity, n: int, version: int) -> str:
    return f"rule{rule}_{affinity}{version}_{n}"


def _tracked(n: int, kind: int) -> int:
    return TRACKED + n * 16 + kind
