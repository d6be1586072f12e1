"""NAT64: are IPv4-only servers reached, and is there room for more connections."""

from __future__ import annotations

from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE
from portico.health.observations import Observations
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

WARNING, ERROR = HealthState.WARNING, HealthState.ERROR
NAT64: Final = Component.NAT64
NEARLY_FULL: Final = 0.9

_EXHAUSTED: Final = {
    "bindings_full": "nat64.max_bindings is reached",
    "sessions_full": "nat64.max_sessions is reached",
    "ports_exhausted": "no port of nat64.ipv4_address_port_pool is free",
}

NOT_RUNNING = CATALOGUE.add(
    "NAT64_NOT_RUNNING",
    NAT64,
    ERROR,
    what="Clients of this server reach no IPv4-only server",
    cause="the gateway process is {state}",
    resolution="Look at the gateway: portico server status; it is started again by itself",
)
NO_ADDRESS = CATALOGUE.add(
    "NAT64_NO_ADDRESS",
    NAT64,
    ERROR,
    what="NAT64 has no IPv4 address to translate to",
    cause="{interface} has none, and the settings name none",
    resolution="Give the interface an address, or set server.internal_ipv4 or nat64.ipv4_address_port_pool",
)
NEARLY = CATALOGUE.add(
    "NAT64_NEARLY_FULL",
    NAT64,
    WARNING,
    what="NAT64 has hardly room for more connections",
    cause="{used:.0f} of {limit} {about} are in use",
    resolution="See who uses them: portico nat64 sessions; raise nat64.max_{about}",
)
EXHAUSTED = CATALOGUE.add(
    "NAT64_EXHAUSTED",
    NAT64,
    ERROR,
    what="NAT64 refused connections for lack of room",
    cause="{count:.0f} packets in ten minutes: {reasons}",
    resolution="See who uses it: portico nat64 sessions, portico nat64 stats; raise the limit that is named, or give "
    "the pool more addresses",
)
GREEDY = CATALOGUE.add(
    "NAT64_CLIENT_LIMIT",
    NAT64,
    WARNING,
    what="A client has as many connections through NAT64 as it may have",
    cause="{count:.0f} packets were refused in ten minutes",
    resolution="Find it: portico nat64 sessions; look at that computer, or raise nat64.max_bindings_per_client",
)


@heuristic(NAT64)
def translates(seen: Observations) -> Findings:
    if seen.settings is None or seen.settings.nat64.state != "enabled":
        return None
    gateway = seen.process("gateway")
    if gateway is not None and gateway.state != "running":
        return [NOT_RUNNING.finding(state=gateway.state)]
    if seen.nat64_addresses == 0:
        return [NO_ADDRESS.finding(interface=seen.settings.server.internal_interface)]
    return []


@heuristic(NAT64)
def has_room(seen: Observations) -> Findings:
    """Tables that fill, refusals that already happened, and single clients at their limit."""
    if seen.settings is None or seen.settings.nat64.state != "enabled":
        return None
    if seen.counters is None:
        return []
    settings, now, lately = seen.settings.nat64, seen.counters.now, seen.counters.lately
    found = []
    limits = {"bindings": settings.max_bindings, "sessions": settings.max_sessions or 2 * settings.max_bindings}
    for name, limit in limits.items():
        used = now.get(f"nat64.{name}", 0)
        if used >= NEARLY_FULL * limit:
            found.append(NEARLY.finding(name, used=used, limit=limit))
    refused = {why: lately.get(f"nat64.refused_{reason}", 0) for reason, why in _EXHAUSTED.items()}
    if any(refused.values()):
        reasons = ", ".join(why for why, count in refused.items() if count)
        found.append(EXHAUSTED.finding(count=sum(refused.values()), reasons=reasons))
    greedy = lately.get("nat64.refused_client_bindings", 0) + lately.get("nat64.refused_client_sessions", 0)
    if greedy:
        found.append(GREEDY.finding(count=greedy))
    return found
