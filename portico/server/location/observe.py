"""Looks whether this server can serve clients: real questions to the parts a client needs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.errors import PorticoError
from portico.server.platform import Platform
from portico.server.reconcile.wanted import TRANSLATOR, TUNNEL
from portico.settings.addresses import DnsServer, embed_ipv4
from portico.settings.effective import Effective
from portico.settings.model import Settings

ANSWER_SECONDS = 1.5
"""For an answer of our own processes."""
REMOTE_SECONDS = 1.0
ATTEMPTS = 2

_WELL_KNOWN = "ipv4only.arpa."
_WELL_KNOWN_ADDRESSES = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
"""RFC 7050 section 2.2: every DNS64 answers for this name by itself."""

_IFF_UP = 1


async def observe(platform: Platform, problem: PorticoError | None) -> dict[str, str]:
    """Part to why it does not work, empty when it does. Parts that are not in use are left out.

    Args:
        problem: why the settings in force are not served, if so.
    """
    settings, values = platform.settings, platform.values
    if settings is None or values is None:
        return {"tunnel": str(problem.what) if problem is not None else "there are no settings in force"}
    links = await asyncio.to_thread(_links, _names(settings))
    found = {"tunnel": _first(problem.what if problem is not None else "", links[TUNNEL], await _tunnel(platform))}
    checks = [_intranet(settings, values, links[settings.server.internal_interface])]
    parts = ["intranet"]
    if values.dns64_address is not None:
        checks.append(_dns64(values.dns64_address, values))
        parts.append("DNS64")
    found |= dict(zip(parts, await asyncio.gather(*checks), strict=True))
    if values.nat64_mappings:
        found["NAT64"] = _first(links[TRANSLATOR], await asyncio.to_thread(_pool, values))
    return found


def _names(settings: Settings) -> tuple[str, ...]:
    return TUNNEL, TRANSLATOR, settings.server.internal_interface


async def _tunnel(platform: Platform) -> str:
    if not platform.gateway.running:
        return "the gateway does not run"
    if platform.sockets is None or not platform.sockets.listeners:
        return "nothing listens for clients"
    try:
        async with asyncio.timeout(ANSWER_SECONDS * ATTEMPTS):
            await platform.gateway.stats()
    except TimeoutError:
        return "the gateway does not answer"
    except PorticoError as error:
        return error.why or error.what
    return ""


async def _dns64(address: IPv6Address, values: Effective) -> str:
    """Asks it what it knows by itself, so that corporate DNS servers have no part in the answer."""
    answer = await _ask(DnsServer(address), ANSWER_SECONDS)
    if isinstance(answer, str):
        return answer
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return f"it answers {dns.rcode.to_text(answer.rcode())} for {_WELL_KNOWN}"
    if not values.dns64_mappings:
        return ""
    expected = {
        embed_ipv4(mapping.prefix, known) for mapping in values.dns64_mappings for known in _WELL_KNOWN_ADDRESSES
    }
    got = {
        ip_address(rdata.address) for rrset in answer.answer if rrset.rdtype == dns.rdatatype.AAAA for rdata in rrset
    }
    return "" if got & expected else f"it makes no address of {_WELL_KNOWN} with a prefix of NAT64"


async def _intranet(settings: Settings, values: Effective, link: str) -> str:
    """The link, and whether any DNS server of the intranet can be reached at all. That one answers wrongly, or runs no
    DNS at the moment, is another trouble, and one that taking this server out of service would not cure."""
    if link:
        return link
    if not values.internal_addresses:
        return f"{settings.server.internal_interface} has no address"
    servers = settings.dns64.upstream_servers
    if not servers:
        return ""
    reached = await asyncio.gather(*(_reachable(server) for server in servers))
    if any(not why for why in reached):
        return ""
    told = ", ".join(f"{server}: {why}" for server, why in zip(servers, reached, strict=True))
    return f"no DNS server of the intranet can be reached ({told})"


async def _reachable(server: DnsServer) -> str:
    """Whether the host is there: it answers a question, or refuses a connection."""
    answer = await _ask(server, REMOTE_SECONDS)
    if not isinstance(answer, str):
        return ""
    try:
        async with asyncio.timeout(REMOTE_SECONDS):
            _, writer = await asyncio.open_connection(str(server.address), server.port)
        writer.close()
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            return ""
        return error.strerror or answer
    return ""


async def _ask(server: DnsServer, seconds: float) -> dns.message.Message | str:
    """The answer to a question about the well-known name; or why there is none."""
    why = ""
    for _ in range(ATTEMPTS):
        question = dns.message.make_query(_WELL_KNOWN, dns.rdatatype.AAAA, use_edns=0, payload=1232)
        try:
            return await dns.asyncquery.udp(
                question, str(server.address), timeout=seconds, port=server.port, raise_on_truncation=False
            )
        except dns.exception.Timeout:
            why = "it does not answer"
        except (OSError, dns.exception.DNSException) as error:
            why = str(error) or type(error).__name__
    return why


def _links(names: Iterable[str]) -> dict[str, str]:
    """Interface to why nothing goes through it, empty when something can."""
    found: dict[str, str] = {}
    with IPRoute() as ip:
        for name in names:
            found[name] = f"there is no interface {name}"
            with contextlib.suppress(NetlinkError):
                for link in ip.link("get", ifname=name):
                    found[name] = _link(name, int(link["flags"]), link.get_attr("IFLA_CARRIER"))
    return found


def _link(name: str, flags: int, carrier: int | None) -> str:
    if not flags & _IFF_UP:
        return f"{name} is down"
    return f"{name} has no carrier" if carrier == 0 else ""


def _pool(values: Effective) -> str:
    """Whether the addresses that NAT64 sends from are on this machine."""
    if not values.nat64_pool:
        return "it has no IPv4 address to send from"
    with IPRoute() as ip:
        present = {IPv4Address(item.get_attr("IFA_LOCAL")) for item in ip.get_addr(family=2)}
    missing = sorted({pool.address for pool in values.nat64_pool} - present)
    return f"{', '.join(map(str, missing))} of its pool is on no interface" if missing else ""


def _first(*reasons: str) -> str:
    return next((reason for reason in reasons if reason), "")
