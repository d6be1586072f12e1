"""DNS and DNS64: are names of the intranet resolved."""

from __future__ import annotations

from itertools import groupby
from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE
from portico.health.observations import Observations
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

WARNING, ERROR, UNKNOWN = HealthState.WARNING, HealthState.ERROR, HealthState.UNKNOWN
DNS: Final = Component.DNS
DNS64: Final = Component.DNS64

MANY_FAILURES: Final = 20
"""SERVFAIL answers in ten minutes from which their share matters."""
SLOW_SECONDS: Final = 1.0
"""A DNS server that needs as long for what it knows itself is said to be slow."""
LIMITED: Final = 100
"""Queries in ten minutes that were refused for their number, from which it is said."""

SILENT = CATALOGUE.add(
    "DNS_SERVER_SILENT",
    DNS,
    WARNING,
    shared=True,
    what="A DNS server of the intranet does not answer",
    cause="{about}: {detail}{suffix}",
    resolution="Ask it from this server: dig @{about} {domain} SOA; repair it, or take it out of "
    "dns64.upstream_servers",
)
SLOW = CATALOGUE.add(
    "DNS_SERVER_SLOW",
    DNS,
    WARNING,
    shared=True,
    what="A DNS server of the intranet is slow",
    cause="{about} answers after {seconds:.1f} s{suffix}; clients wait that long for each name that is not cached, and "
    "programs give up",
    resolution="Look at its load, at the servers it asks itself and at the way to it: dig @{about} {domain} SOA; or "
    "name another one first in dns64.upstream_servers",
)
NONE_ANSWERS = CATALOGUE.add(
    "DNS_NO_SERVER_ANSWERS",
    DNS,
    ERROR,
    shared=True,
    what="No DNS server of the intranet answers",
    cause="{servers}{suffix}; clients resolve only what is cached",
    resolution="Look at the DNS servers and at the way to them: ping, dig, ip route get ADDRESS",
)
NOT_ASKED = CATALOGUE.add(
    "DNS_NOT_ASKED",
    DNS,
    UNKNOWN,
    what="The DNS servers of the intranet were not asked yet",
    cause="they are asked every half minute",
    resolution="Wait a moment",
)
NOT_RUNNING = CATALOGUE.add(
    "DNS64_NOT_RUNNING",
    DNS64,
    ERROR,
    what="DNS64 answers no client of this server",
    cause="{why}",
    resolution="Look at the gateway: portico server status; it is started again by itself",
)
UPSTREAM_SILENT = CATALOGUE.add(
    "DNS64_SERVERS_RESTING",
    DNS64,
    ERROR,
    what="DNS64 gets no answers",
    cause="all of its servers{suffix} keep silent: {servers}",
    resolution="See the component Dns; expired answers are given as long as dns64.serve_stale_seconds allows",
)
WITHHELD = CATALOGUE.add(
    "DNS64_AAAA_UNANSWERED",
    DNS64,
    WARNING,
    shared=True,
    what="A DNS server of the intranet keeps silent about IPv6 addresses",
    cause="{about} answers other questions of DNS64{suffix} and none about AAAA, so names that have IPv6 addresses are "
    "taken for names without",
    resolution="Compare dig @{about} {domain} AAAA with A: the server, or what stands before it, must answer that "
    "there is none; on an intranet without IPv6 set dns64.only_send_a_query to true",
)
FAILING = CATALOGUE.add(
    "DNS64_FAILS",
    DNS64,
    WARNING,
    what="DNS64 cannot answer many questions",
    cause="{failed:.0f} of {queries:.0f} answers of the last ten minutes were SERVFAIL",
    resolution="See why with a name that fails: portico dns64 query NAME",
)
OVERLOADED = CATALOGUE.add(
    "DNS64_QUERIES_REFUSED",
    DNS64,
    WARNING,
    what="DNS64 refuses questions because there are too many",
    cause="{count:.0f} in ten minutes: {reasons}",
    resolution="See who asks so much: portico dns64 stats; dns64.queries_per_second_per_client is the limit",
)


@heuristic(DNS)
def servers_answer(seen: Observations) -> Findings:
    """Each configured server, asked for the SOA record of its domain."""
    if seen.settings is None or seen.settings.dns64.state != "enabled":
        return None
    if not seen.settings.dns64.upstream_servers and not seen.settings.dns64.conditional_forwarding:
        return None
    if seen.dns_servers is None or any(server.answers is None for server in seen.dns_servers):
        return [NOT_ASKED.finding()]
    found = []
    for suffix, group in groupby(seen.dns_servers, key=lambda server: server.suffix):
        servers = list(group)
        domain = suffix or seen.settings.deployment.domain
        of = f" (for {suffix})" if suffix else ""
        silent = [server for server in servers if not server.answers]
        if len(silent) == len(servers):
            texts = ", ".join(f"{server.address}: {server.detail}" for server in silent)
            found.append(NONE_ANSWERS.finding(suffix, servers=texts, suffix=of))
            continue
        found += [SILENT.finding(server.address, detail=server.detail, suffix=of, domain=domain) for server in silent]
        found += [
            SLOW.finding(server.address, seconds=server.seconds, suffix=of, domain=domain)
            for server in servers
            if server.answers and server.seconds is not None and server.seconds >= SLOW_SECONDS
        ]
    return found


@heuristic(DNS64)
def runs(seen: Observations) -> Findings:
    """A gateway that answers, and its sockets."""
    if seen.settings is None or seen.settings.dns64.state != "enabled":
        return None
    gateway = seen.process("gateway")
    if gateway is not None and gateway.state != "running":
        return [NOT_RUNNING.finding(why=f"the gateway process is {gateway.state}")]
    if seen.dns64_listening is False:
        return [NOT_RUNNING.finding(why="its address is not open on UDP and TCP port 53")]
    return []


@heuristic(DNS64)
def is_answered(seen: Observations) -> Findings:
    """Servers that kept silent several times in a row rest; when all of a suffix do, its names are not resolved."""
    if seen.settings is None or seen.settings.dns64.state != "enabled":
        return None
    found = []
    resolvers = sorted(seen.resolvers or (), key=lambda resolver: resolver.suffix)
    for suffix, group in groupby(resolvers, key=lambda resolver: resolver.suffix):
        servers = list(group)
        of = f" for {suffix}" if suffix not in ("", ".") else ""
        if all(server.resting for server in servers):
            names = ", ".join(server.address for server in servers)
            found.append(UPSTREAM_SILENT.finding(suffix, suffix=of, servers=names))
        found += [
            WITHHELD.finding(server.address, suffix=of, domain=seen.settings.deployment.domain)
            for server in servers
            if server.withholds_aaaa
        ]
    return found


@heuristic(DNS64)
def keeps_up(seen: Observations) -> Findings:
    """Shares and numbers of what went wrong in the last ten minutes."""
    if seen.settings is None or seen.settings.dns64.state != "enabled":
        return None
    if seen.counters is None:
        return []
    lately = seen.counters.lately
    found = []
    failed, queries = lately.get("dns64.servfail", 0), lately.get("dns64.queries", 0)
    if failed >= MANY_FAILURES and failed > queries / 5:
        found.append(FAILING.finding(failed=failed, queries=queries))
    names = ("refused_total_limit", "refused_client_limit", "dropped_client_rate")
    counts = {name: lately.get(f"dns64.{name}", 0) for name in names}
    if sum(counts.values()) >= LIMITED:
        reasons = ", ".join(f"{name} {count:.0f}" for name, count in counts.items() if count)
        found.append(OVERLOADED.finding(count=sum(counts.values()), reasons=reasons))
    return found
