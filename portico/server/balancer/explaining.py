"""Would this cluster accept this packet, where and why? From one server's knowledge of all of them. Pure.

Its own buckets are known as its kernel works with them. Of the other servers it is known what the map gives them and
whether they are heard; which old connections they keep of buckets that moved away is known to them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from portico.balancing.nlb.explain import TCP, UDP, Explanation, Member, Packet, explain, protocol_number
from portico.balancing.nlb.plan import BalancingPlan, Owned, Share
from portico.cluster.conditions import SERVING_STATES
from portico.cluster.core import Member as ClusterMember
from portico.cluster.ownership import Ownership, RuleOwnership
from portico.errors import InvalidInput
from portico.server.balancer.plans import Assignment

Address = IPv4Address | IPv6Address


def packet(source: str, destination: str, protocol: str, *, established: bool = False) -> Packet:
    """What is asked about.

    Args:
        source, destination: `203.0.113.7`, `203.0.113.7:40000`, `2001:db8::7`, `[2001:db8::7]:40000`.
        protocol: a name or a number.
        established: a segment of a TCP connection that is there, rather than the first one.

    Raises:
        InvalidInput: one of them cannot be read, or they do not go together.
    """
    client, client_port = _end("from", source)
    vip, vip_port = _end("to", destination)
    try:
        number = protocol_number(protocol)
    except ValueError:
        raise InvalidInput(
            f"'{protocol}' is not a protocol",
            why="neither a known name nor a number from 0 to 255",
            resolution="Use tcp, udp, esp, icmp, icmpv6 or the protocol's number",
        ) from None
    if client.version != vip.version:
        raise InvalidInput(
            "There is no such packet",
            why=f"{client} is IPv{client.version} and {vip} is IPv{vip.version}",
            resolution="Give two addresses of one family",
        )
    if number not in (TCP, UDP) and (client_port is not None or vip_port is not None):
        raise InvalidInput(
            f"{protocol} has no ports", why="only tcp and udp have", resolution="Leave the port out of the addresses"
        )
    return Packet(client, vip, number, client_port or 0, vip_port, begins=not established)


def _end(option: str, text: str) -> tuple[Address, int | None]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") else ("?" if port else "")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or "?"
    try:
        address = ip_address(host)
        number = int(port) if port else None
        if number is not None and not 0 <= number <= 0xFFFF:
            raise ValueError(f"{number} is not a port")
    except ValueError as error:
        raise InvalidInput(
            f"'{text}' is not an address with or without a port",
            why=f"--{option}: {error}",
            resolution="Write 203.0.113.7, 203.0.113.7:40000, 2001:db8::7 or [2001:db8::7]:40000",
        ) from None
    return address, number


def members(
    own: int, applied: Owned | None, serving: Mapping[int, bool], ownership: Ownership, names: Mapping[int, str]
) -> list[Member]:
    """All servers as explanations need them, by host id.

    Args:
        own: this server's host id.
        applied: what its kernel works with; None before the first picture.
        serving: by host id, whether it serves as far as is known; hosts that are not heard are left out.
    """
    default, *rules = ownership.rules
    found = []
    for host, name in sorted(names.items()):
        if host == own:
            picture = applied
        else:
            shares = tuple(_mapped(rule, host) for rule in rules)
            picture = Owned(ownership.version, shares, _mapped(default, host))
        if picture is not None:
            found.append(Member(name, picture, serving.get(host, False)))
    return found


def _mapped(rule: RuleOwnership, host: int) -> Share:
    return Share(owned=frozenset(bucket for bucket, owner in enumerate(rule.owners) if owner == host))


def explanation(
    plan: BalancingPlan, asked: Packet, servers: list[Member], *, answering: str, holder: str | None
) -> dict[str, Any]:
    """The answer as JSON data.

    Args:
        answering: the server that answers.
        holder: the server that holds the destination as a client's address, if one does.
    """
    found: Explanation = explain(plan, asked, servers)
    reasons = list(found.reasons)
    server, outcome = found.server, found.outcome
    if outcome == "passed" and plan.client_prefix is not None and asked.destination in plan.client_prefix:
        if holder is not None:
            server = holder
            reasons.append(f"{holder} holds the session of this client")
        else:
            reasons.append("no server holds a session with this address: nobody takes it")
    return {
        "answered_by": answering,
        "outcome": outcome,
        "server": server,
        "rule": found.rule if found.rule is not None and found.rule < plan.default_rule else None,
        "default_rule": found.rule == plan.default_rule,
        "bucket": found.bucket,
        "slot": found.slot,
        "reasons": reasons,
    }


def answer(
    told: Assignment, plan: BalancingPlan, member: ClusterMember, applied: Owned | None, asked: Packet, now: float
) -> dict[str, Any]:
    """What a running member says of a packet.

    Args:
        applied: what its kernel works with.
    """
    own = told.own.priority
    serving = {
        view.host: view.state in SERVING_STATES and not view.conditions
        for view in member.members(now)
        if view.host != own
    }
    serving[own] = member.lease_until is not None and now < member.lease_until
    destination = asked.destination
    holder = member.directory.holder_of(destination) if isinstance(destination, IPv6Address) else None
    return explanation(
        plan,
        asked,
        members(own, applied, serving, member.ownership, told.names),
        answering=told.own.name,
        holder=told.names.get(holder) if holder is not None else None,
    )
