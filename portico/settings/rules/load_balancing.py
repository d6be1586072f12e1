"""Load balancing, the document: who is in the cluster, prefixes, port rules, timing. About the whole cluster."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Literal

from portico.settings.addresses import CLUSTER_CLIENT_PREFIX_LENGTH
from portico.settings.facts import Facts
from portico.settings.load_balancing import (
    LEASE_HEARTBEATS,
    MAXIMUM_EXTERNAL_SERVERS,
    MAXIMUM_SERVERS,
    ClusterServer,
    LoadBalancing,
    PortRule,
)
from portico.settings.localise import default_client_prefix
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

CLIENT_PREFIX = CATALOGUE.add(
    "LB_CLIENT_PREFIX",
    what="A cluster needs a client prefix that is exactly a /59",
    why="{prefix} is a /{length}, and a cluster cuts its prefix into the /64s of up to 32 servers",
    resolution="Set ip_https.client_prefix to {suggestion} before load balancing is enabled",
    example='ip_https: {client_prefix: "fd7c:1a2b:3c4d:1000::/64"}   # and load_balancing is set',
)
NO_SERVERS = CATALOGUE.add(
    "LB_NO_SERVERS",
    what="The cluster has no servers",
    why="load_balancing.servers is empty",
    resolution="Write 'load_balancing: null', or name the servers; 'portico lb enable' makes the first one",
    example="load_balancing: {servers: []}",
)
TOO_MANY_SERVERS = CATALOGUE.add(
    "LB_TOO_MANY_SERVERS",
    what="The cluster has too many servers",
    why="there are {count}, and with {balancing} at most {limit} are possible: {reason}",
    resolution="Remove {excess} of them",
    example="load_balancing: {servers: [...]}   # nine servers",
)
TOPOLOGY = CATALOGUE.add(
    "LB_TOPOLOGY",
    what="The servers of the cluster are not connected alike",
    why="{first} has {first_count} for the two sides, {second} has {second_count}",
    resolution="Give every server the topology of the first one: {first_count}",
    example="load_balancing: {servers: [{name: da1, ...}, {name: da2, internet_interface: eth1, internal_interface: "
    "eth1, ...}]}",
)
NOT_MEMBER = CATALOGUE.add(
    "LB_NOT_A_MEMBER",
    what="This machine is not a server of the cluster",
    why="it is called {name}, and the servers are: {present}",
    resolution="Keep its entry in load_balancing.servers; 'portico lb remove' takes a server out, 'portico lb disable' "
    "ends load balancing",
    example="load_balancing: {servers: [{name: da2, ...}]}   # applied on da1",
)
NOT_UNIQUE = CATALOGUE.add(
    "LB_NOT_UNIQUE",
    what="Two servers have the same {kind}",
    why="{first} and {second} both have {value}",
    resolution="Give one of them another {kind}",
    example="load_balancing: {servers: [{name: da1, priority: 1}, {name: da2, priority: 1}]}",
)
PREFIX_INDEX = CATALOGUE.add(
    "LB_PREFIX_INDEX",
    what="Two servers give addresses of the same /64 to their clients",
    why="{first} and {second} both have server prefix number {index}, and a packet to a client finds one server only",
    resolution="Give one of them another server_prefix_index (0 to 31), or set client_addresses to roaming",
    example="load_balancing: {client_addresses: per-server, servers: [{priority: 1}, {priority: 2, "
    "server_prefix_index: 0}]}",
)
NONE_STARTED = CATALOGUE.add(
    "LB_NONE_STARTED",
    severity="warning",
    what="No server of the cluster takes clients",
    why="{reason}",
    resolution="{resolution}",
    example="load_balancing: {servers: [{name: da1, priority: 1, state: stopped}]}",
)
LEASE = CATALOGUE.add(
    "LB_DETECTION_TOO_FAST",
    what="A server could be replaced while it still serves",
    why="a server that hears nothing stops after {lease} heartbeats, and the others take over after {missed}",
    resolution="Set missed_heartbeats to {least} or more; a shorter heartbeat_milliseconds makes the detection faster",
    example="load_balancing: {missed_heartbeats: 3}",
)
RULE_RANGE = CATALOGUE.add(
    "LB_RULE_RANGE",
    what="A port rule has no ports",
    why="{first} is behind {last}",
    resolution="Write the lower port as first_port",
    example="load_balancing: {port_rules: [{first_port: 500, last_port: 400}]}",
)
RULE_OVERLAP = CATALOGUE.add(
    "LB_RULE_OVERLAP",
    what="Two port rules cover the same ports",
    why="{second} has {ports} of {protocol} in common with {first}, and one rule decides about a packet",
    resolution="Make the ranges disjoint; what no rule covers goes to the default host",
    example="load_balancing: {port_rules: [{}, {protocol: tcp, first_port: 443, last_port: 443}]}",
)
RULE_ADDRESS = CATALOGUE.add(
    "LB_RULE_ADDRESS",
    what="A port rule is about an address that is not virtual",
    why="{address} is not among: {present}",
    resolution="Use a virtual address of the cluster, or all",
    example="load_balancing: {port_rules: [{virtual_address: 203.0.113.99}]}",
)
RULE_FRAGMENTS = CATALOGUE.add(
    "LB_RULE_FRAGMENTS",
    what="Affinity none cannot be used for UDP",
    why="it chooses the server by port, only the first fragment of a datagram has ports, and the others would go to "
    "other servers",
    resolution="Set affinity to single, or protocol to tcp",
    example="load_balancing: {port_rules: [{protocol: both, affinity: none}]}",
)
TAKEOVER = CATALOGUE.add(
    "LB_TAKEOVER_MODE",
    what="Only unicast takes interfaces' hardware addresses over",
    why="mode is {mode}, in which servers hear the cluster's multicast address beside their own",
    resolution="Set load_balancing.takeover to false, or mode to unicast",
    example="load_balancing: {mode: multicast, takeover: true}",
)
RULE_TIMEOUT = CATALOGUE.add(
    "LB_RULE_TIMEOUT",
    what="Extended affinity needs affinity",
    why="timeout_minutes keeps a client on its server, and {reason}",
    resolution="Set timeout_minutes to 0, or mode to multiple and affinity to single or network",
    example="load_balancing: {port_rules: [{protocol: tcp, affinity: none, timeout_minutes: 10}]}",
)


def client_prefix(settings: Settings, facts: Facts) -> Iterator[Problem]:
    balancing, prefix = settings.load_balancing, settings.ip_https.client_prefix
    # Other lengths than 59 and 64 are a problem of their own.
    if balancing is not None and prefix is not None and prefix.prefixlen == 64:
        suggestion = prefix.supernet(new_prefix=CLUSTER_CLIENT_PREFIX_LENGTH)
        shown = str(suggestion)
        if (derived := default_client_prefix(settings)) is not None and derived == suggestion:
            shown = f"{derived} (or null)"
        yield CLIENT_PREFIX.problem("ip_https.client_prefix", prefix=prefix, length=prefix.prefixlen, suggestion=shown)


def servers(settings: Settings, facts: Facts) -> Iterator[Problem]:
    balancing = settings.load_balancing
    if balancing is None:
        return
    if balancing.takeover and balancing.mode != "unicast":
        yield TAKEOVER.problem("load_balancing.takeover", mode=balancing.mode)
    path = "load_balancing.servers"
    if not balancing.servers:
        yield NO_SERVERS.problem(path)
        return
    external = balancing.mode == "external"
    limit = MAXIMUM_EXTERNAL_SERVERS if external else MAXIMUM_SERVERS
    if (count := len(balancing.servers)) > limit:
        yield TOO_MANY_SERVERS.problem(
            path,
            count=count,
            limit=limit,
            excess=count - limit,
            balancing="an external load balancer" if external else "network load balancing",
            reason="the client prefix has a /64 for each" if external else "each of them receives every packet",
        )
    if facts.own_name is not None and balancing.server(facts.own_name) is None:
        present = ", ".join(server.name for server in balancing.servers)
        yield NOT_MEMBER.problem(path, name=facts.own_name, present=present)
    yield from _unique(balancing)
    yield from _topology(settings, balancing)
    yield from _started(balancing)


def timing(settings: Settings, facts: Facts) -> Iterator[Problem]:
    balancing = settings.load_balancing
    if balancing is not None and balancing.missed_heartbeats <= LEASE_HEARTBEATS:
        yield LEASE.problem(
            "load_balancing.missed_heartbeats",
            lease=LEASE_HEARTBEATS,
            missed=balancing.missed_heartbeats,
            least=LEASE_HEARTBEATS + 1,
        )


def port_rules(settings: Settings, facts: Facts) -> Iterator[Problem]:
    balancing = settings.load_balancing
    if balancing is None:
        return
    virtual = [vip.ip for vip in balancing.virtual_addresses]
    for index, rule in enumerate(balancing.port_rules):
        path = f"load_balancing.port_rules[{index}]"
        if rule.first_port > rule.last_port:
            yield RULE_RANGE.problem(path, first=rule.first_port, last=rule.last_port)
        if rule.virtual_address != "all" and rule.virtual_address not in virtual:
            present = ", ".join(map(str, virtual)) or "(none)"
            yield RULE_ADDRESS.problem(f"{path}.virtual_address", address=rule.virtual_address, present=present)
        if rule.mode == "multiple" and rule.affinity == "none" and rule.protocol != "tcp":
            yield RULE_FRAGMENTS.problem(f"{path}.affinity")
        if rule.timeout_minutes and (rule.mode != "multiple" or rule.affinity == "none"):
            reason = "affinity is none" if rule.mode == "multiple" else f"mode is {rule.mode}"
            yield RULE_TIMEOUT.problem(f"{path}.timeout_minutes", reason=reason)
    for (first, one), (second, other) in combinations(enumerate(balancing.port_rules), 2):
        protocol = _both(one.protocol, other.protocol)
        low, high = max(one.first_port, other.first_port), min(one.last_port, other.last_port)
        if protocol is not None and low <= high and _same_address(one, other):
            yield RULE_OVERLAP.problem(
                f"load_balancing.port_rules[{second}]",
                first=f"port_rules[{first}]",
                second=f"port_rules[{second}]",
                ports=f"port {low}" if low == high else f"ports {low} to {high}",
                protocol=protocol,
            )


def _unique(balancing: LoadBalancing) -> Iterator[Problem]:
    indices: dict[int, str] = {}
    seen: dict[tuple[str, object], str] = {}
    for index, server in enumerate(balancing.servers):
        path = f"load_balancing.servers[{index}]"
        for kind, value in (("name", server.name), ("priority", server.priority)):
            first = seen.setdefault((kind, value), f"servers[{index}]")
            if first != f"servers[{index}]":
                yield NOT_UNIQUE.problem(
                    f"{path}.{kind}", kind=kind, first=first, second=f"servers[{index}]", value=value
                )
        if balancing.client_addresses == "per-server":
            holder = indices.setdefault(server.prefix_index, server.name)
            if holder != server.name:
                yield PREFIX_INDEX.problem(
                    f"{path}.server_prefix_index", first=holder, second=server.name, index=server.prefix_index
                )


def _topology(settings: Settings, balancing: LoadBalancing) -> Iterator[Problem]:
    def adapters(server: ClusterServer) -> str:
        internet = server.internet_interface or settings.server.internet_interface
        internal = server.internal_interface or settings.server.internal_interface
        return "one network adapter" if internet == internal else "two network adapters"

    first = balancing.servers[0]
    for index, server in enumerate(balancing.servers):
        if adapters(server) != adapters(first):
            yield TOPOLOGY.problem(
                f"load_balancing.servers[{index}]",
                first=first.name,
                first_count=adapters(first),
                second=server.name,
                second_count=adapters(server),
            )


def _started(balancing: LoadBalancing) -> Iterator[Problem]:
    started = [server for server in balancing.servers if server.state == "started"]
    if not started:
        yield NONE_STARTED.problem(
            "load_balancing.servers",
            reason="none of them is to be started",
            resolution="Set the state of one to started",
        )
    elif all(server.weight == 0 for server in started):
        yield NONE_STARTED.problem(
            "load_balancing.servers",
            reason="every started server has weight 0, which takes no new clients",
            resolution="Give one of them a weight",
        )


def _same_address(one: PortRule, other: PortRule) -> bool:
    return "all" in (one.virtual_address, other.virtual_address) or one.virtual_address == other.virtual_address


def _both(one: Literal["tcp", "udp", "both"], other: Literal["tcp", "udp", "both"]) -> str | None:
    """The protocol that two rules have in common."""
    if one == other or other == "both":
        return "TCP and UDP" if one == "both" else one.upper()
    return other.upper() if one == "both" else None


RULES = (client_prefix, servers, timing, port_rules)
