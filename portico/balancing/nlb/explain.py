"""Would this cluster accept this packet, where and why? Pure: the same decisions as the filters, in words.

Any server can answer for all of them, because the owner follows from the hash and from who owns what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from portico.balancing.nlb.hash import slot_of
from portico.balancing.nlb.plan import (
    ALL_PORTS,
    IKE_PORT,
    SLOTS_PER_BUCKET,
    Address,
    Affinity,
    BalancingPlan,
    Owned,
    Rule,
    Verdict,
)

TCP, UDP, ICMP, ESP, ICMPV6 = 6, 17, 1, 50, 58
_NAMES = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "esp": ESP, "icmpv6": ICMPV6}
_ERRORS = {ICMP: frozenset({3, 11, 12}), ICMPV6: frozenset({1, 2, 3, 4})}


@dataclass(frozen=True)
class Packet:
    """What is asked about.

    Attributes:
        protocol: its number; `protocol_number` knows names.
        source_port, destination_port: of TCP and UDP; without a destination port only rules for all ports fit.
        fragment: whether it is part of a fragmented datagram.
        begins: of TCP, whether it asks for a new connection.
        icmp_type: of ICMP and ICMPv6.
    """

    source: Address
    destination: Address
    protocol: int
    source_port: int = 0
    destination_port: int | None = None
    fragment: bool = False
    begins: bool = True
    icmp_type: int | None = None


@dataclass(frozen=True)
class Member:
    """A server as it is known: its share, and whether its lease runs."""

    name: str
    owned: Owned
    serving: bool = True


Outcome = Literal["accepted", "all", "kept", "refused", "dropped", "unowned", "passed"]


@dataclass(frozen=True)
class Explanation:
    """The answer.

    Attributes:
        outcome: accepted by `server`; all servers take it; kept, a server takes it only when it holds the connection;
            refused by a disabled rule; dropped, nobody takes it; unowned, the same because nobody owns its bucket;
            passed, load balancing is not concerned.
        rule: the number of the port rule, the number of rules for what none covers; None when none was looked for.
        bucket, slot: of the client under that rule.
        reasons: how it was decided, sentence by sentence.
    """

    outcome: Outcome
    server: str | None
    rule: int | None
    bucket: int | None
    slot: int | None
    reasons: tuple[str, ...]


def protocol_number(name: str) -> int:
    """6 for `tcp` or `6`. ValueError for what is neither a known name nor a number."""
    if name.lower() in _NAMES:
        return _NAMES[name.lower()]
    number = int(name)
    if not 0 <= number <= 255:
        raise ValueError(f"{number} is not a protocol")
    return number


def rule_for(plan: BalancingPlan, packet: Packet, vip: Address | None) -> int:
    """The number of the rule that decides; the number of rules when none fits. `vip` is None for what is behind one."""
    for number, rule in enumerate(plan.rules):
        if (rule.vip is None or rule.vip == vip) and _fits(rule, packet):
            return number
    return plan.default_rule


def affinity_for(plan: BalancingPlan, packet: Packet, rule: int) -> Affinity:
    """What of the client is hashed. Packets whose ports cannot be seen are hashed by address."""
    affinity = plan.rules[rule].affinity if rule < len(plan.rules) else "single"
    return "single" if affinity == "none" and (packet.fragment or not _has_ports(packet)) else affinity


def explain(plan: BalancingPlan, packet: Packet, members: Sequence[Member]) -> Explanation:
    """The fate of a packet that comes from the network, framed for the cluster."""
    reasons: list[str] = []
    target = _target(plan, packet.destination)
    if target is None:
        if plan.client_prefix is not None and packet.destination in plan.client_prefix:
            return _passed(f"{packet.destination} is a client's: the server that holds its session takes it")
        return _passed(f"{packet.destination} is not a VIP: its owner takes it, without load balancing")
    vip, text = target
    reasons.append(text)
    if packet.protocol in _ERRORS and packet.icmp_type in _ERRORS[packet.protocol]:
        reasons.append(
            "an ICMP error comes from a router, whose address says nothing about the flow: all servers take it"
        )
        return Explanation("all", None, None, None, None, tuple(reasons))
    number = rule_for(plan, packet, vip)
    reasons.append(_about_rule(plan, packet, number))
    if number < len(plan.rules) and plan.rules[number].mode == "disabled":
        reasons.append("the rule is disabled: every server drops it")
        return Explanation("refused", None, number, None, None, tuple(reasons))
    affinity = affinity_for(plan, packet, number)
    slot = slot_of(packet.source, packet.source_port, affinity, plan.seed)
    bucket = slot // SLOTS_PER_BUCKET
    what = {"none": "address and port", "single": "address", "network": "network"}[affinity]
    reasons.append(f"by its {what} the client is in bucket {bucket} (slot {slot})")
    accepted, kept = _judge(plan, packet, members, number, slot, reasons)
    if len(accepted) > 1:
        reasons.append(f"MORE THAN ONE server accepts it ({', '.join(accepted)}): its connections cannot work")
    outcome: Outcome = "accepted" if accepted else "kept" if kept else "dropped"
    if not accepted and not kept:
        owners = [m.name for m in members if bucket in m.owned.shares(plan)[number].owned]
        if not owners:
            outcome = "unowned"
            reasons.append(f"no server owns bucket {bucket}")
    server = accepted[0] if accepted else kept[0] if len(kept) == 1 else None
    return Explanation(outcome, server, number, bucket, slot, tuple(reasons))


def _judge(
    plan: BalancingPlan, packet: Packet, members: Sequence[Member], rule: int, slot: int, reasons: list[str]
) -> tuple[list[str], list[str]]:
    """The servers that accept it, and those that do only when they hold its connection."""
    accepted: list[str] = []
    kept: list[str] = []
    for member in members:
        verdict = member.owned.shares(plan)[rule].verdict(slot)
        if verdict is None:
            continue
        answer, why = _answer(verdict, packet, lingers=plan.lingers(rule) > 0)
        if not member.serving:
            reasons.append(f"{member.name} would take it, but its lease has run out: it drops it")
        elif answer is None:
            reasons.append(f"{member.name} drops it: {why}")
        else:
            (accepted if answer else kept).append(member.name)
            reasons.append(
                f"{member.name} {'accepts it' if answer else 'accepts it if the connection is there'}: {why}"
            )
    return accepted, kept


def _answer(verdict: Verdict, packet: Packet, *, lingers: bool) -> tuple[bool | None, str]:
    """Accepted, accepted when the connection is there (False), dropped (None); and why."""
    if verdict == "own":
        return True, "it owns the bucket"
    if packet.protocol == TCP and lingers and verdict in ("dirty_held", "quiet_held"):
        stays = "extended affinity keeps its client with the former owner"
        return (
            (True, f"the bucket has moved away, but {stays}")
            if verdict == "dirty_held"
            else (
                None,
                f"it owns the bucket, but {stays}",
            )
        )
    if packet.protocol != TCP:
        former = "the session stays with its former owner until it is idle"
        answers: dict[Verdict, tuple[bool | None, str]] = {
            "dirty": (None, "the bucket has moved away"),
            "dirty_held": (True, f"the bucket has moved away, but {former}"),
            "quiet": (True, "it owns the bucket"),
            "quiet_held": (None, f"it owns the bucket, but {former}"),
        }
        return answers[verdict]
    if packet.fragment:
        return None, "a fragment of TCP shows no connection, and the bucket is changing hands"
    if verdict in ("dirty", "dirty_held"):
        if packet.begins:
            return None, "the bucket has moved away, new connections go to its new owner"
        return False, "the bucket has moved away, its connections stay"
    if packet.begins:
        return True, "it owns the bucket, and this is a new connection"
    return False, "it owns the bucket, but older connections are with the former owner"


def _target(plan: BalancingPlan, destination: Address) -> tuple[Address | None, str] | None:
    for nic in plan.nics:
        if destination in nic.vips:
            return destination, f"{destination} is a VIP of {nic.interface}"
        for network in nic.behind:
            if destination in network:
                return None, f"{destination} is routed to the VIP of {nic.interface} ({network})"
    return None


def _fits(rule: Rule, packet: Packet) -> bool:
    first, last = rule.ports
    if packet.protocol == ESP:
        return "udp" in rule.protocols and first <= IKE_PORT <= last
    if packet.protocol not in (TCP, UDP):
        return "other" in rule.protocols
    if ("tcp" if packet.protocol == TCP else "udp") not in rule.protocols:
        return False
    if packet.fragment:
        return rule.mode != "disabled" or rule.ports == ALL_PORTS
    if rule.ports == ALL_PORTS:
        return True
    return packet.destination_port is not None and first <= packet.destination_port <= last


def _has_ports(packet: Packet) -> bool:
    return packet.protocol in (TCP, UDP)


def _about_rule(plan: BalancingPlan, packet: Packet, number: int) -> str:
    if number == plan.default_rule:
        return "no port rule fits: the default host takes it"
    rule = plan.rules[number]
    if packet.protocol == ESP:
        return f"ESP follows rule {number}, which covers IKE (UDP {IKE_PORT})"
    if packet.fragment:
        return f"fragments show no ports: rule {number} is the first one of their protocol"
    ports = "all ports" if rule.ports == ALL_PORTS else f"ports {rule.ports[0]} to {rule.ports[1]}"
    return f"rule {number} fits ({ports}, affinity {rule.affinity})"


def _passed(why: str) -> Explanation:
    return Explanation("passed", None, None, None, None, (why,))


@dataclass(frozen=True)
class Finding:
    """Something about port rules that does not work, or not as it looks."""

    code: str
    rules: tuple[int, ...]
    what: str
    why: str
    resolution: str


def check_rules(rules: Sequence[Rule]) -> list[Finding]:
    """What is wrong with port rules as such; whoever verifies settings reports it in its own words and places."""
    found = [
        Finding(
            "NLB_AFFINITY_NONE_UDP",
            (number,),
            f"Port rule {number} has affinity none and covers UDP",
            "only the first fragment of a datagram has ports, and IKE and ESP of a client must meet on one server",
            "Use affinity single or network, or limit the rule to TCP",
        )
        for number, rule in enumerate(rules)
        if rule.affinity == "none" and "udp" in rule.protocols and rule.mode != "disabled"
    ]
    ike = {port: _first(rules, port) for port in (IKE_PORT, 4500)}
    if ike[IKE_PORT] != ike[4500] and None not in ike.values():
        found.append(
            Finding(
                "NLB_IKE_SPLIT",
                tuple(sorted({number for number in ike.values() if number is not None})),
                "UDP 500 and UDP 4500 are under different port rules",
                "a client behind a NAT begins IKE on 500 and goes on with 4500, perhaps at another server then",
                "Cover both with one rule",
            )
        )
    return found


def _first(rules: Iterable[Rule], port: int) -> int | None:
    fitting = (n for n, r in enumerate(rules) if "udp" in r.protocols and r.ports[0] <= port <= r.ports[1])
    return next(fitting, None)
