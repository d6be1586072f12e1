"""Asks every DNS server of the zone for the records, all at once, each within a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.NS
import dns.rdtypes.ANY.SOA

from portico.errors import Unavailable
from portico.naming.records.plan import Key, ServerView, key
from portico.naming.records.wanted import KINDS, Kind, WantedName
from portico.settings.addresses import Address, DnsServer

TIMEOUT = 3.0
"""Seconds for one question, by UDP and again by TCP when the answer was truncated."""
ATTEMPTS = 2
MAXIMUM_SERVERS = 16
"""DNS servers that are asked; a zone with more names the rest for nothing."""
_PARALLEL = 16

Ask = Callable[[dns.message.Message, DnsServer], Awaitable[dns.message.Message]]
"""Sends one question; raises OSError or dns.exception.DNSException when there is no answer."""


@dataclass(frozen=True)
class Member:
    """One DNS server of a zone, by the addresses it can be asked at.

    Attributes:
        host: its full name; empty when only its address is known.
    """

    addresses: tuple[DnsServer, ...]
    host: str = ""


@dataclass(frozen=True)
class ZoneServers:
    """Who has a zone.

    Attributes:
        primary: takes updates; None when it is not known.
        left_out: servers beyond `MAXIMUM_SERVERS`, which are not asked.
    """

    members: tuple[Member, ...]
    primary: Member | None
    left_out: int = 0


async def send(question: dns.message.Message, server: DnsServer) -> dns.message.Message:
    """By UDP, and by TCP when the answer does not fit."""
    last: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            answer, _tcp = await dns.asyncquery.udp_with_fallback(
                question, str(server.address), timeout=TIMEOUT, port=server.port
            )
        except (OSError, dns.exception.DNSException) as error:
            last = error
        else:
            return answer
    assert last is not None
    raise last


async def zone_servers(
    zone: str, configured: Sequence[DnsServer], upstream: Sequence[DnsServer], update: DnsServer | None, ask: Ask = send
) -> ZoneServers:
    """The DNS servers of a zone: those of the settings, or those that its NS records name; and who takes updates.

    Args:
        configured: `corporate_dns.servers`.
        upstream: the intranet's DNS servers, which are asked who the others are.
        update: `corporate_dns.update_server`.

    Raises:
        Unavailable: code DNS_ZONE_NOT_FOUND; nobody says who has the zone, and none are configured.
    """
    asked = [*configured, *upstream]
    names, leaders = await asyncio.gather(_texts(zone, "NS", asked, ask), _texts(zone, "SOA", asked, ask))
    hosts = tuple(dict.fromkeys([*names, *leaders]))[: 2 * MAXIMUM_SERVERS]
    found = await asyncio.gather(*(_addresses(name, asked, ask) for name in hosts))
    by_host = {host: tuple(map(DnsServer, addresses)) for host, addresses in zip(hosts, found, strict=True)}
    if configured:
        members = [Member((server,), _host_of(server, by_host)) for server in dict.fromkeys(configured)]
    else:
        members = [Member(by_host[name], name) for name in names if by_host.get(name)]
    if not members:
        why = f"name servers without addresses: {', '.join(names)}" if names else "nobody answers with its NS records"
        raise Unavailable(
            f"The DNS servers of {zone} cannot be found",
            why=why,
            resolution="Name the servers in corporate_dns.servers, or correct the zone",
            code="DNS_ZONE_NOT_FOUND",
        )
    if update is not None:
        primary: Member | None = Member((update,), _host_of(update, by_host))
    else:
        addresses = by_host.get(leaders[0], ()) if leaders else ()
        listed = next((member for member in members if set(member.addresses) & set(addresses)), None)
        primary = listed or (Member(addresses, leaders[0]) if addresses else None)
    return ZoneServers(tuple(members[:MAXIMUM_SERVERS]), primary, max(0, len(members) - MAXIMUM_SERVERS))


def _host_of(server: DnsServer, by_host: Mapping[str, tuple[DnsServer, ...]]) -> str:
    known = (host for host, addresses in by_host.items() if server.address in {a.address for a in addresses})
    return next(known, "")


async def look(zone: str, members: Iterable[Member], wanted: Sequence[WantedName], ask: Ask = send) -> list[ServerView]:
    """What each server says about the wanted names. Never raises because of a server."""
    gate = asyncio.Semaphore(_PARALLEL)
    return list(await asyncio.gather(*(_member(zone, member, wanted, ask, gate) for member in members)))


async def serials(zone: str, members: Iterable[Member], ask: Ask = send) -> dict[DnsServer, int | None]:
    """The serial of the zone at the first address of each server; None where there is no answer. Never raises."""
    gate = asyncio.Semaphore(_PARALLEL)

    async def one(member: Member) -> tuple[DnsServer, int | None]:
        async with gate:
            return member.addresses[0], await _serial(zone, member.addresses[0], ask)

    return dict(await asyncio.gather(*map(one, members)))


async def addresses_of(name: str, servers: Sequence[DnsServer], ask: Ask = send) -> list[Address]:
    """A name's addresses by the first of these servers that answers; aliases are followed there."""
    return await _addresses(name, servers, ask)


async def _member(
    zone: str, member: Member, wanted: Sequence[WantedName], ask: Ask, gate: asyncio.Semaphore
) -> ServerView:
    """At the first of its addresses that answers."""
    view: ServerView | None = None
    for server in member.addresses:
        found = await _view(zone, server, member.host, wanted, ask, gate)
        if not found.trouble:
            return found
        view = view or found
    assert view is not None, "a member has an address"
    return view


async def _view(
    zone: str, server: DnsServer, host: str, wanted: Sequence[WantedName], ask: Ask, gate: asyncio.Semaphore
) -> ServerView:
    sets: dict[Key, frozenset[str]] = {}
    aliases: dict[str, str] = {}

    async def one(name: str, kind: Kind) -> str:
        """The trouble, empty when there is none."""
        async with gate:
            answer = await _answer(name, kind, server, ask)
        if isinstance(answer, str):
            return answer
        if not answer.flags & dns.flags.AA:
            return f"it is not authoritative for {zone}"
        owner = dns.name.from_text(name)
        for rrset in answer.answer:
            if rrset.name == owner and rrset.rdtype == dns.rdatatype.CNAME:
                aliases[name.lower()] = _text(rrset[0].target)
        sets[key(name, kind)] = frozenset(
            str(ip_address(rdata.address))
            for rrset in answer.answer
            if rrset.name == owner and rrset.rdtype == dns.rdatatype.from_text(kind)
            for rdata in rrset
        )
        return ""

    async def version() -> int | None:
        async with gate:
            return await _serial(zone, server, ask)

    first = await one(wanted[0].name, "A") if wanted else ""
    if first:  # whoever does not answer once is not waited for again
        return ServerView(server, host, trouble=first)
    questions = [(name.name, kind) for name in wanted for kind in KINDS][1:]
    serial, *troubles = await asyncio.gather(version(), *(one(name, kind) for name, kind in questions))
    trouble = next((text for text in troubles if text), "")
    assert serial is None or isinstance(serial, int)
    return ServerView(server, host, serial, str(trouble), sets, aliases)


async def _serial(zone: str, server: DnsServer, ask: Ask) -> int | None:
    answer = await _answer(zone, "SOA", server, ask)
    if isinstance(answer, str):
        return None
    found = [rdata for rrset in answer.answer for rdata in rrset if isinstance(rdata, dns.rdtypes.ANY.SOA.SOA)]
    return found[0].serial if found else None


async def _answer(
    name: str, kind: str, server: DnsServer, ask: Ask, *, recursive: bool = False
) -> dns.message.Message | str:
    """The answer, NXDOMAIN among them; or why there is none."""
    question = dns.message.make_query(name, kind, use_edns=0, payload=1232)
    if not recursive:
        question.flags &= ~dns.flags.RD
    try:
        answer = await ask(question, server)
    except dns.exception.Timeout:
        return f"no answer within {TIMEOUT * ATTEMPTS:g} s"
    except (OSError, dns.exception.DNSException, EOFError) as error:
        return str(error) or type(error).__name__
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return f"it answers {dns.rcode.to_text(answer.rcode())}"
    return answer


async def _texts(zone: str, kind: str, servers: Sequence[DnsServer], ask: Ask) -> list[str]:
    """Names of the zone's NS records, or of the primary in its SOA; of the first server that answers with some."""
    for server in servers:
        answer = await _answer(zone, kind, server, ask, recursive=True)
        if isinstance(answer, str):
            continue
        owner = dns.name.from_text(zone)
        names = [
            _text(rdata.mname if isinstance(rdata, dns.rdtypes.ANY.SOA.SOA) else rdata.target)
            for rrset in answer.answer
            if rrset.name == owner
            for rdata in rrset
            if isinstance(rdata, dns.rdtypes.ANY.SOA.SOA | dns.rdtypes.ANY.NS.NS)
        ]
        if names:
            return sorted(dict.fromkeys(names))
    return []


async def _addresses(name: str, servers: Sequence[DnsServer], ask: Ask) -> list[Address]:
    found: list[Address] = []
    for kind in KINDS:
        for server in servers:
            answer = await _answer(name, kind, server, ask, recursive=True)
            if isinstance(answer, str):
                continue
            for rrset in answer.answer:
                if rrset.rdtype == dns.rdatatype.from_text(kind):
                    found += [ip_address(rdata.address) for rdata in rrset]
            break
    return found


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)
