"""Asks the intranet's DNS servers whether they answer, from this machine itself, past DNS64 and its cache."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

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
            answers, detail = await ask(address, port, suffix or settings.deployment.domain)
        shown = address if port == 53 else f"[{address}]:{port}"
        return DnsServer(shown, suffix, answers, detail)

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


async def ask(address: str, port: int, domain: str) -> tuple[bool, str]:
    """Whether a server answers a question about a domain, and its answer or why there is none."""
    detail = "no answer"
    for _ in range(TRIES):
        question = dns.message.make_query(domain, dns.rdatatype.SOA)
        try:
            answer = await dns.asyncquery.udp(question, address, timeout=ANSWER_SECONDS, port=port)
        except dns.exception.Timeout:
            detail = "no answer"
        except (OSError, dns.exception.DNSException) as error:
            detail = str(error) or type(error).__name__
        else:
            code = answer.rcode()
            return code in _WELL, dns.rcode.to_text(code)
    return False, detail
