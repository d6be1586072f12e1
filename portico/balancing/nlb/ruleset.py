"""The portable filter as nftables text: tables `netdev portico_nlb` and, while TCP connections are being handed over,
`inet portico_nlb`. Pure.

At ingress, before anything of the machine has worked on the packet:

    in      to a VIP? -> four, six.  To a client, framed for the cluster? -> clients.  Everything else is not touched.
            The VIPs are elements with a timeout: they are the lease. Once they are gone the packet goes to `lapsed`.
    four    packet type; ICMP errors (they come from routers, so every server takes them); the first port rule that
            fits -> rule. Protocol and fragments are looked at only where port rules tell them apart.
    rule    the bucket of the client; the map of buckets says what becomes of it, see plan.Verdict; a bucket not there
            is another server's. A bucket of which slots are with another server -> slots, the same with the slot.
    own     notes that the slot is in use, where a former owner would be asked to keep it, and accepts.

Whoever sends much is judged once in FLOW_MS: `own` adds protocol, source and destination to `flows`, which accepts at
once what it has, and forgets it after that time whatever comes. The lease in the maps of VIPs is shorter by that time,
so that both together are the lease. What is noted of slots is noted in `own`, often enough by far. It is so where
clients come in and one port rule covers everything: elsewhere protocol and addresses do not say what the verdict is.

Every expression is paid for by every packet, and the kernel runs loads and comparisons of constants without a call and
everything else with one: hence comparisons before sets, raw loads (`@nh,96,32` is `ip saddr`) where the family is known
already, hash tables of 60 buckets instead of intervals of slots, and no packet marks on the way. docs/load-balancing.md
says what it costs; a test counts the expressions.

Only TCP of a dirty or quiet bucket gets a mark, as far as `inet portico_nlb`, which asks the kernel for a socket rather
than track connections: most servers balance thousands of flows that never move, and `ct` anywhere makes the kernel
track every packet of the machine.

Who owns what are maps; replacing them is one transaction, so no packet sees half of a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from portico.balancing.nlb import mac
from portico.balancing.nlb.plan import (
    ALL_PORTS,
    BUCKETS,
    IKE_PORT,
    SLOTS,
    SLOTS_PER_BUCKET,
    Address,
    Affinity,
    BalancingPlan,
    NicPlan,
    Owned,
    Share,
    Verdict,
)

TABLE = "portico_nlb"

TRACKED = 0x4E40_0000
"""Marks of TCP packets that need a socket: TRACKED + interface * 16 + _DIRTY or _QUIET."""
_DIRTY, _QUIET = 1, 2

BEFORE_EVERYTHING = -300
BEFORE_STEERING = -175
"""Priority of the prerouting hook: behind connection tracking (-200), should somebody use it, and before routing marks
(mangle, -150) which others set and which ours must not be taken for."""

_INTEGER = "typeof meta cpu"
"""nft has no name for the type of a hash; its `typeof jhash` crashes nft 1.0.6 when it lists. This is the same type."""

FLOW_MS = 50
"""Milliseconds for which what was accepted is accepted without asking again; never more than a sixth of the lease."""
MAX_FLOWS = 65_536
"""For each interface and family, with forgotten ones that the kernel has not cleared away yet. Behind the last one
packets are judged one by one."""

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
    "flows",
)
"""Per interface, each with the interface's number behind its name. See filter.Counters for their meaning;
what `flows` accepts is of those seen and accepted."""

_KEY: dict[tuple[Affinity, int], str] = {
    ("single", 4): "@nh,96,32",
    ("single", 6): "@nh,64,128",
    ("network", 4): "ip saddr & 255.255.255.0",
    ("network", 6): "ip6 saddr & ffff:ffff:ffff:ffff::",
    ("none", 4): "ip saddr . th sport",
    ("none", 6): "ip6 saddr . th sport",
}


_FLOW = {4: "ip protocol . ip saddr . ip daddr", 6: "ip6 nexthdr . ip6 saddr . ip6 daddr"}
_FAMILY = {4: "ip", 6: "ip6"}
_CHAIN = {4: "four", 6: "six"}
_ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}


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
    for rule in range(len(plan.rules) + 1):
        lines += [
            f"set {name} {{ {_INTEGER}; size {SLOTS}; flags dynamic,timeout; }}"
            for name in recorders(plan, rule, lingering=True)
        ]
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
    """Extends the lease. The elements go and come back because older kernels cannot change a timeout in place."""
    lines = _lapse(plan) if flush else []
    beyond = min(FLOW_MS, plan.lease_ms // 6) if flows(plan) else 0
    timeout = f"timeout {plan.lease_ms - beyond}ms"
    elements = ", ".join(f"{family} {timeout}" for family in ("ip", "ip6"))
    lines.append(f"add element netdev {TABLE} alive {{ {elements} }}")
    for n, nic in enumerate(plan.nics):
        for version in _versions(nic):
            vips = ", ".join(f"{target} {timeout} : goto {_CHAIN[version]}{n}" for target in _hosts(nic, version))
            lines.append(f"add element netdev {TABLE} vips{version}_{n} {{ {vips} }}")
    return "\n".join(lines) + "\n"


def surrender(plan: BalancingPlan) -> str:
    """Ends the lease now."""
    return "\n".join([*_lapse(plan), *forget(plan)]) + "\n"


def flows(plan: BalancingPlan) -> list[str]:
    """The sets of what is accepted without being judged."""
    return [
        f"flows{version}_{n}"
        for n, nic in enumerate(plan.nics)
        for version in _versions(nic)
        if _flows(plan, n, nic, version)
    ]


def forget(plan: BalancingPlan) -> list[str]:
    """The commands that have everything judged again. After a change of ownership they come with it, and once more: a
    packet that another processor judged before the change may add its flow behind it."""
    return [f"flush set netdev {TABLE} {name}" for name in flows(plan)]


def _lapse(plan: BalancingPlan) -> list[str]:
    maps = [f"vips{version}_{n}" for n, nic in enumerate(plan.nics) for version in _versions(nic)]
    return [f"flush set netdev {TABLE} alive", *(f"flush map netdev {TABLE} {name}" for name in maps)]


def ownership(plan: BalancingPlan, owned: Owned, *, flush: bool = True) -> list[str]:
    """The commands that replace the maps of buckets and slots."""
    lines = forget(plan) if flush else []
    shares = owned.shares(plan)
    for leaf in _leaves(plan):
        if flush:
            lines += [f"flush map netdev {TABLE} {what}_{leaf.name}" for what in ("buckets", "slots")]
        buckets, slots = leaf.elements(shares[leaf.rule])
        for what, elements in (("buckets", buckets), ("slots", slots)):
            if elements:
                lines.append(f"add element netdev {TABLE} {what}_{leaf.name} {{ {', '.join(elements)} }}")
    return lines


def recorders(plan: BalancingPlan, rule: int, *, lingering: bool) -> list[str]:
    """The sets in which slots of a rule are noted that are in use."""
    return [f"busy{rule}", *([f"known{rule}"] if lingering and plan.lingers(rule) else [])]


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
    yield from _verdicts(n)
    for version in _versions(nic):
        if _flows(plan, n, nic, version):
            key = f"type inet_proto . {_ADDRESS[version]} . {_ADDRESS[version]}"
            yield f"set flows{version}_{n} {{ {key}; size {MAX_FLOWS}; flags dynamic,timeout; gc-interval 100ms; }}"
        yield from _rules(plan, n, nic, version)
        yield f"map vips{version}_{n} {{ type {_ADDRESS[version]} : verdict; flags timeout; }}"
    yield f"chain lapsed{n} {{ ether daddr {cluster} counter name seen{n}; counter name lease{n} drop; }}"
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
    for version in _versions(nic):
        if _flows(plan, n, nic, version):
            yield f"{_FLOW[version]} @flows{version}_{n} meta pkttype set host counter name flows{n} accept"
    for version in _versions(nic):
        yield f"{_FAMILY[version]} daddr vmap @vips{version}_{n}"
        hosts = [str(target) for target in _hosts(nic, version)]
        yield f"{_FAMILY[version]} daddr {_one_of(hosts)} goto lapsed{n}"
        for network in nic.behind:
            if network.version == version and network.num_addresses > 1:
                yield f"{_FAMILY[version]} daddr {network} meta protocol @alive goto {_CHAIN[version]}{n}"
                yield f"{_FAMILY[version]} daddr {network} goto lapsed{n}"
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


def _one_of(items: Sequence[str]) -> str:
    """A comparison where there is one, a set of several."""
    return items[0] if len(items) == 1 else f"{{ {', '.join(items)} }}"


def _versions(nic: NicPlan) -> list[int]:
    return [version for version in (4, 6) if nic.has(version)]


def _hosts(nic: NicPlan, version: int) -> list[Address]:
    """What is looked up by its whole address: VIPs, and single addresses behind them."""
    behind = [network.network_address for network in nic.behind if network.num_addresses == 1]
    found = [address for address in (*nic.vips, *behind) if address.version == version]
    return list(dict.fromkeys(found))


def _verdicts(n: int) -> Iterator[str]:
    """What becomes of packets that are not accepted at once."""
    dirty, quiet = (f"meta l4proto tcp meta mark set {_tracked(n, kind):#x} accept" for kind in (_DIRTY, _QUIET))
    foreign = f"counter name foreign{n} drop"
    yield f"chain foreign{n} {{ {foreign}; }}"
    yield f"chain dirty{n} {{ {dirty}; {foreign}; }}"
    yield f"chain quiet_held{n} {{ {quiet}; {foreign}; }}"


@dataclass(frozen=True)
class _Leaf:
    """What a rule does to the packets of one interface, family and affinity."""

    rule: int
    affinity: Affinity
    n: int
    version: int
    linger: float
    records: bool
    flow: str
    """What adds a packet's flow to those that are not judged; empty where all are."""

    @property
    def name(self) -> str:
        return _name(self.rule, self.affinity, self.n, self.version)

    def elements(self, share: Share) -> tuple[list[str], list[str]]:
        """Of its map of buckets and its map of slots."""
        buckets, slots = [], []
        for bucket in range(BUCKETS):
            base = bucket * SLOTS_PER_BUCKET
            if share.splits(bucket):
                buckets.append(f"{bucket} : goto split_{self.name}")
                targets = {slot: self._target(share.verdict(slot)) for slot in range(base, base + SLOTS_PER_BUCKET)}
                slots += [f"{slot} : goto {target}" for slot, target in targets.items()]
            elif (verdict := share.verdict(base)) is not None:
                buckets.append(f"{bucket} : goto {self._target(verdict)}")
        return buckets, slots

    def chains(self, seed: int, idle: int) -> Iterator[str]:
        key = _KEY[self.affinity, self.version]
        n, name = self.n, self.name
        yield f"map buckets_{name} {{ {_INTEGER} : verdict; size {BUCKETS}; }}"
        yield f"map slots_{name} {{ {_INTEGER} : verdict; size {SLOTS}; }}"
        own = f"counter name accepted{n} accept"
        known = [self.flow] if self.flow else []
        slot = f"jhash {key} mod {SLOTS} seed {seed:#x}"
        yield f"chain own_{name} {{"
        if self.records:
            if self.linger:
                yield f"meta l4proto tcp update @known{self.rule} {{ {slot} timeout {round(self.linger * 1000)}ms }}"
            # Whoever pings a VIP all day has no session that its server would have to keep, and must not hide one. Of
            # IPv4 one byte tells, of IPv6 a header that others may precede; what does is a flow with what it precedes.
            icmp, tcp = ("@nh,72,8 1", "@nh,72,8 6") if self.version == 4 else ("meta l4proto icmpv6", "@nh,48,8 6")
            yield f"{icmp} {own}"
            yield from (f"{tcp} {step}" for step in (*known, own))
            if self.version == 6:
                yield f"meta l4proto tcp {own}"
            yield f"update @busy{self.rule} {{ {slot} timeout {idle}s }}"
            yield from known
        yield f"{own}; }}"
        dirty, quiet = (f"meta l4proto tcp meta mark set {_tracked(n, kind):#x} accept" for kind in (_DIRTY, _QUIET))
        yield f"chain dirty_held_{name} {{ {'' if self.linger else f'{dirty}; '}goto own_{name}; }}"
        yield f"chain quiet_{name} {{ {quiet}; goto own_{name}; }}"
        yield f"chain split_{name} {{ {slot} vmap @slots_{name}; }}"
        yield from _chain(name, self.judge(seed))

    def judge(self, seed: int) -> list[str]:
        """The lines that look its bucket up."""
        key = _KEY[self.affinity, self.version]
        return [
            f"jhash {key} mod {BUCKETS} seed {seed:#x} vmap @buckets_{self.name}",
            f"counter name foreign{self.n} drop",
        ]

    def _target(self, verdict: Verdict | None) -> str:
        if verdict is None or (verdict == "quiet_held" and self.linger):
            return f"foreign{self.n}"
        if verdict in ("dirty", "quiet_held"):
            return f"{verdict}{self.n}"
        return f"{verdict}_{self.name}"


def _leaves(plan: BalancingPlan) -> Iterator[_Leaf]:
    for n, nic in enumerate(plan.nics):
        for version in _versions(nic):
            for i, rule in enumerate(plan.rules):
                if rule.mode != "disabled" and (rule.vip is None or rule.vip.version == version):
                    for affinity in dict.fromkeys((rule.affinity, portless(rule.affinity))):
                        yield _Leaf(
                            i, affinity, n, version, rule.linger, plan.records(nic), _add_flow(plan, n, nic, version)
                        )
            yield _Leaf(
                plan.default_rule, "single", n, version, 0.0, plan.records(nic), _add_flow(plan, n, nic, version)
            )


def _flows(plan: BalancingPlan, n: int, nic: NicPlan, version: int) -> bool:
    """Whether protocol and addresses say all that a verdict depends on, where it pays to remember it."""
    kinds = [
        (list(_dispatch(plan, n, version, kind, pieces=pieces)))
        for kind in ("tcp", "udp", "esp", "other")
        for pieces in (False, True)
    ]
    first = kinds[0]
    return (
        plan.records(nic)
        and len(first) == 1
        and first[0].startswith("goto rule")
        and all(lines == first for lines in kinds)
    )


def _add_flow(plan: BalancingPlan, n: int, nic: NicPlan, version: int) -> str:
    if not _flows(plan, n, nic, version):
        return ""
    timeout = min(FLOW_MS, plan.lease_ms // 6)
    key = f"{_FLOW[version]} timeout {timeout}ms"
    return f"@ll,0,48 0x{nic.cluster_mac.hex()} add @flows{version}_{n} {{ {key} }}"


def _rules(plan: BalancingPlan, n: int, nic: NicPlan, version: int) -> Iterator[str]:
    """What happens to a packet for a VIP."""
    for leaf in _leaves(plan):
        if (leaf.n, leaf.version) == (n, version):
            yield from leaf.chains(plan.seed, plan.session_idle)
    yield f"chain disabled{version}_{n} {{ counter name disabled{n} drop; }}"
    branches: dict[str, list[str]] = {}
    for kind in ("tcp", "udp"):
        whole = list(_dispatch(plan, n, version, kind, pieces=False))
        pieces = list(_dispatch(plan, n, version, kind, pieces=True))
        if whole == pieces:
            branches[kind] = whole
            continue
        yield from _chain(f"piece_{kind}{version}_{n}", pieces)
        fragment = "ip frag-off & 0x3fff != 0" if version == 4 else "exthdr frag exists"
        branches[kind] = [f"{fragment} goto piece_{kind}{version}_{n}", *whole]
    branches["esp"] = list(_dispatch(plan, n, version, "esp", pieces=False))
    others = list(_dispatch(plan, n, version, "other", pieces=False))
    branches = {kind: lines for kind, lines in branches.items() if lines != others}
    if version == 4:
        # Some kernels take what a later fragment begins with for a header.
        errors = [
            f"ip frag-off & 0x1fff == 0 icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} "
            f"counter name errors{n} accept"
        ]
    else:
        errors = [
            f"icmpv6 type {{ 1, 2, 3, 4 }} counter name errors{n} accept",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
        ]
    # Words that nft's grammar has: others it looks up in /etc/protocols, which a small installation lacks.
    branches["icmp" if version == 4 else "icmpv6"] = [*errors, *others]
    for kind, lines in branches.items():
        yield from _chain(f"kind_{kind}{version}_{n}", lines)
    yield f"chain {_CHAIN[version]}{n} {{"
    yield f"@ll,0,48 0x{nic.cluster_mac.hex()} counter name seen{n} meta pkttype set host"
    if len(branches) == 1:
        yield from (f"meta l4proto {kind} goto kind_{kind}{version}_{n}" for kind in branches)
    else:
        targets = ", ".join(f"{kind} : goto kind_{kind}{version}_{n}" for kind in branches)
        yield f"meta l4proto vmap {{ {targets} }}"
    # Where one rule covers everything, its lines stand here: a chain less on the way of every packet.
    only = next((leaf for leaf in _leaves(plan) if others[0] == f"goto {leaf.name}"), None)
    yield from only.judge(plan.seed) if only is not None else others
    yield "}"


def _chain(name: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"chain {name} {{"
    yield from lines
    yield "}"


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
        condition = "" if rule.vip is None else f"{_FAMILY[version]} daddr {rule.vip} "
        if ported and not pieces and rule.ports != ALL_PORTS:
            condition += f"th dport {first}-{last} "
        affinity = rule.affinity if ported and not pieces else portless(rule.affinity)
        target = f"disabled{version}_{n}" if rule.mode == "disabled" else _name(i, affinity, n, version)
        yield f"{condition}goto {target}"
        if not condition:
            return
    yield f"goto {_name(plan.default_rule, 'single', n, version)}"


def _name(rule: int, affinity: Affinity, n: int, version: int) -> str:
    return f"rule{rule}_{affinity}{version}_{n}"


def _tracked(n: int, kind: int) -> int:
    return TRACKED + n * 16 + kind
