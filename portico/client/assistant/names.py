"""Asks DNS servers directly: on a given interface, past the machine's own resolver and its table of rules."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from portico.client.resolver.server import split_server
from portico.settings.addresses import Address

TIMEOUT = 3.0
AGAIN = 0.7
"""Seconds after which a question is sent a second time: networks that have just come up lose packets."""
HALF_KNOWN = 0.25
"""Seconds that a server's answer about one kind waits for its answer about the other."""
MAXIMUM_ADDRESSES = 8
MAXIMUM_SERVERS = 4


class NotFoundInDns(Exception):
    """No address; the text says why.

    Attributes:
        answered: a DNS server says so; otherwise none could be asked.
    """

    def __init__(self, why: str, *, answered: bool) -> None:
        super().__init__(why)
        self.answered = answered


@dataclass(frozen=True)
class Server:
    """A DNS server and the interface it is asked on; empty leaves that to the routes."""

    address: str
    device: str = ""


Ask = Callable[[Server, dns.message.Message], Awaitable[dns.message.Message]]
"""Sends one question. Raises OSError, TimeoutError or dns.exception.DNSException when there is no answer."""


async def ask(server: Server, question: dns.message.Message) -> dns.message.Message:
    """By UDP; an answer that does not fit counts as it is, for addresses at its beginning are enough."""
    host, port = split_server(server.address)
    loop = asyncio.get_running_loop()
    address, _, zone = host.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        if server.device:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, server.device.encode())
        where = (address, port, 0, socket.if_nametoindex(zone)) if zone else (address, port)
        channel.connect(where)  # sends nothing
        data = question.to_wire()
        async with asyncio.timeout(TIMEOUT):
            await loop.sock_sendall(channel, data)
            again = loop.call_later(AGAIN, _send_again, channel, data)
            try:
                while True:
                    answer = await loop.sock_recv(channel, 65_535)
                    try:
                        found = dns.message.from_wire(answer, ignore_trailing=True)
                    except dns.exception.DNSException:
                        continue  # something else, or a forger: the true answer may still come
                    if question.is_response(found):
                        return found
            finally:
                again.cancel()


async def addresses_of(
    name: str, servers: Sequence[Server], kinds: Iterable[str] = ("AAAA", "A"), *, send: Ask = ask
) -> tuple[Address, ...]:
    """The addresses of a name, those of the first server that has any. All are asked at once.

    A server that has answered for one kind is not waited for about another for long: some keep silent about AAAA.

    Raises:
        NotFoundInDns: none has one.
    """
    if not servers:
        raise NotFoundInDns("this computer has no DNS server", answered=False)
    questions = [(server, kind) for server in servers[:MAXIMUM_SERVERS] for kind in kinds]
    tasks = [asyncio.create_task(_one(name, kind, server, send)) for server, kind in questions]
    refusals: list[NotFoundInDns] = []
    found: dict[Server, list[Address]] = {}
    open_kinds = {server: sum(1 for other, _ in questions if other == server) for server, _ in questions}
    pending = set(tasks)
    try:
        while pending:
            # In the order of asking where several have ended at once.
            done, pending = await asyncio.wait(
                pending, timeout=HALF_KNOWN if found else None, return_when=asyncio.FIRST_COMPLETED
            )
            for server, outcome in (task.result() for task in tasks if task in done):
                open_kinds[server] -= 1
                if isinstance(outcome, NotFoundInDns):
                    refusals.append(outcome)
                else:
                    found.setdefault(server, []).extend(outcome)
            whole = [server for server in found if not done or not open_kinds[server]]
            if whole:
                return tuple(dict.fromkeys(found[whole[0]]))[:MAXIMUM_ADDRESSES]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    said = next((refusal for refusal in refusals if refusal.answered), refusals[0])
    raise NotFoundInDns(str(said), answered=said.answered)


async def _one(name: str, kind: str, server: Server, send: Ask) -> tuple[Server, list[Address] | NotFoundInDns]:
    try:
        question = dns.message.make_query(dns.name.from_text(name), kind, use_edns=True)
        answer = await send(server, question)
    except TimeoutError:
        return server, NotFoundInDns(f"the DNS server {server.address} does not answer", answered=False)
    except (OSError, ValueError, dns.exception.DNSException) as error:
        return server, NotFoundInDns(f"the DNS server {server.address} cannot be asked: {error}", answered=False)
    code = answer.rcode()
    if code is dns.rcode.NXDOMAIN:
        return server, NotFoundInDns(f"the DNS server {server.address} knows no such name", answered=True)
    if code is not dns.rcode.NOERROR:
        why = f"the DNS server {server.address} answers {dns.rcode.to_text(code)}"
        return server, NotFoundInDns(why, answered=False)
    wanted = dns.rdatatype.from_text(kind)
    found = [ip_address(item.address) for rrset in answer.answer if rrset.rdtype is wanted for item in rrset]
    if not found:
        return server, NotFoundInDns(f"the DNS server {server.address} knows no {kind} record of it", answered=True)
    return server, found


def _send_again(channel: socket.socket, data: bytes) -> None:
    try:
        channel.send(data)
    except OSError:
        return  # the answer to the first one may still come; if not, the time ends
