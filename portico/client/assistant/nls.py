"""Asks the network location server, on the physical network and on nothing else.

Its name is resolved by the machine's own resolvers, past the table of rules, and every packet leaves on a card that is
not the tunnel: what the tunnel reaches proves nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from portico.client.assistant.names import MAXIMUM_SERVERS, NotFoundInDns, Server, addresses_of
from portico.client.assistant.names import ask as ask_dns
from portico.client.assistant.revoked import RevocationList
from portico.client.assistant.surroundings import Surroundings, way_to
from portico.client.resolver.server import split_server
from portico.location.reach import NotReached, Page, get
from portico.settings.addresses import Address

TIMEOUT: Final = 4.0
"""Seconds for everything: less than the decision's own patience."""

PAGE_TIMEOUT: Final = 3.0
"""Seconds for the page."""


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        proven: this computer is inside.
        known: the name has an address on this network, which names of an intranet have inside only; unless somebody
            answers for every name.
        foreign: somebody else answered: a captive portal, or a server with a wrong certificate.
        tried: a packet was sent; a failure without one says least.
    """

    proven: bool
    detail: str
    known: bool = False
    foreign: bool = False
    tried: bool = True


@dataclass(frozen=True)
class Ports:
    """How it reaches the network; tests put others in place."""

    way: Callable[[str, Surroundings], Awaitable[str | None]]
    """The card to an address, past the tunnel; None when there is none."""
    resolve: Callable[[str, list[Server]], Awaitable[tuple[Address, ...]]]
    fetch: Callable[[str, Address, ssl.SSLContext, str], Awaitable[Page]]


async def _way(address: str, around: Surroundings) -> str | None:
    return await asyncio.to_thread(way_to, address, around.cards)


async def _resolve(name: str, servers: list[Server]) -> tuple[Address, ...]:
    return await addresses_of(name, servers, send=ask_dns)


async def _fetch(url: str, address: Address, context: ssl.SSLContext, device: str) -> Page:
    return await get(url, address, context, timeout=PAGE_TIMEOUT, device=device)


KERNEL: Final = Ports(_way, _resolve, _fetch)


async def ask(
    url: str,
    around: Surroundings,
    context: ssl.SSLContext,
    revoked: RevocationList | None,
    ports: Ports = KERNEL,
) -> Answer:
    """One question. Never raises for what the network does.

    Args:
        context: trusts who may have issued the page's certificate, and checks its name.
    """
    host = urlsplit(url).hostname or ""
    try:
        async with asyncio.timeout(TIMEOUT):
            try:
                addresses: tuple[Address, ...] = (ip_address(host),)
            except ValueError:
                addresses = await _addresses(host, around, ports)
            return await _first(url, addresses, around, context, revoked, ports)
    except NotFoundInDns as error:
        return Answer(False, f"{host}: {error}")
    except TimeoutError:
        return Answer(False, f"{host}: no answer within {TIMEOUT:g} s")


async def _addresses(host: str, around: Surroundings, ports: Ports) -> tuple[Address, ...]:
    servers = []
    for resolver in around.resolvers[:MAXIMUM_SERVERS]:
        device = await ports.way(split_server(resolver)[0], around)
        if device is not None:
            servers.append(Server(resolver, device))
    if around.resolvers and not servers:
        raise NotFoundInDns("no DNS server can be reached without the tunnel", answered=False)
    return await ports.resolve(host, servers)


async def _first(
    url: str,
    addresses: tuple[Address, ...],
    around: Surroundings,
    context: ssl.SSLContext,
    revoked: RevocationList | None,
    ports: Ports,
) -> Answer:
    """The proof of the first address that gives one; else the most telling of the failures."""
    tasks = [asyncio.create_task(_one(url, address, around, context, revoked, ports)) for address in addresses]
    failures = []
    try:
        for done in asyncio.as_completed(tasks):
            answer = await done
            if answer.proven:
                return answer
            failures.append(answer)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return max(failures, key=lambda answer: (answer.foreign, answer.tried))


async def _one(
    url: str,
    address: Address,
    around: Surroundings,
    context: ssl.SSLContext,
    revoked: RevocationList | None,
    ports: Ports,
) -> Answer:
    device = await ports.way(str(address), around)
    if device is None:
        return Answer(False, f"{address} can be reached through the tunnel only", known=True, tried=False)
    try:
        page = await ports.fetch(url, address, context, device)
    except NotReached as error:
        return Answer(False, f"{address}: {error}", known=True, foreign=error.foreign)
    if page.status != 200:
        return Answer(False, f"{address} answers {page.status} instead of 200", known=True, foreign=True)
    if revoked is not None and revoked.names(page.certificate):
        return Answer(False, f"{address}: its certificate is revoked", known=True, foreign=True)
    return Answer(True, f"{address} answers under a valid certificate", known=True)
