"""Asks the intranet's DNS servers whether they answer, from this machine itself, past DNS64 and its cache."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from portico.health.heuristics.naming import SLOW_SECONDS
from portico.health.observations import DnsServer
from portico.settings.model import Settings

if TYPE_CHECKING:
    from portico.server.agent import Agent

TRIES = 2
ANSWER_SECONDS = 2.0
AT_ONCE = 16
MOST = 100
"""Servers that are asked in one look; of more, the first of each domain come first."""

_WELL = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})


@dataclass(frozen=True)
class DnsServers:
    """What the DNS servers of the settings answered."""

    servers: tuple[DnsServer, ...]


async def ask_dns_servers(agent: Agent) -> DnsServers | None:
    """Asks each server for the SOA record of the domain that it is for."""
    settings = agent.platform.settings
    if settings is None or settings.dns64.state != "enabled":
        return None
    room = asyncio.Semaphore(AT_ONCE)

    async def one(suffix: str, address: str, port: int) -> DnsServer:
        async with room:
            answers, detail, seconds = await ask(address, port, suffix or settings.deployment.domain)
        shown = address if port == 53 else f"[{address}]:{port}"
        return DnsServer(shown, suffix, answers, detail, seconds)

    found = await asyncio.gather(*(one(*server) for server in configured(settings)[:MOST]))
    return DnsServers(tuple(sorted(found, key=lambda server: server.suffix)))


def configured(settings: Settings) -> list[tuple[str, str, int]]:
    """Domain (empty: everything else), address and port of every DNS server of the settings, first ones first."""
    groups = [("", settings.dns64.upstream_servers)]
    groups += [(item.suffix, item.servers) for item in settings.dns64.conditional_forwarding]
    ranked = [
        (rank, suffix, str(server.address), server.port)
        for suffix, servers in groups
        for rank, server in enumerate(servers)
    ]
    return [(suffix, address, port) for _, suffix, address, port in sorted(ranked, key=lambda item: item[0])]


async def ask(address: str, port: int, domain: str) -> tuple[bool, str, float | None]:
    """Whether a server answers a question about a domain, its answer or why there is none, and the seconds it took.

    A slow answer may be this machine's own fault: the server is asked again, and the quicker answer counts.
    """
    detail, quickest = "no answer", None
    for _ in range(TRIES):
        question = dns.message.make_query(domain, dns.rdatatype.SOA)
        began = time.monotonic()
        try:
            answer = await dns.asyncquery.udp(question, address, timeout=ANSWER_SECONDS, port=port)
        except dns.exception.Timeout:
            detail = detail if quickest is not None else "no answer"
        except (OSError, dns.exception.DNSException) as error:
            detail = detail if quickest is not None else str(error) or type(error).__name__
        else:
            took = time.monotonic() - began
            quickest, code = min(took, quickest or took), answer.rcode()
            detail = dns.rcode.to_text(code)
            if code not in _WELL or took < SLOW_SECONDS:
                return code in _WELL, detail, quickest
    return quickest is not None, detail, quickest
