"""Names are asked of several servers, for both kinds of address, at once."""

from __future__ import annotations

import asyncio

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from portico.client.assistant.names import NotFoundInDns, Server, addresses_of

NAME = "directaccess-nls.corp.example.net"
ONE, TWO = Server("10.0.0.53", "eth0"), Server("10.0.0.54", "eth0")
A, AAAA = "10.0.0.2", "fd7c:1a2b:3c4d:1::2"


class Servers:
    """What each server says of each kind; of a kind that it does not have it says nothing, ever."""

    def __init__(self, said: dict[Server, dict[str, str | None]]) -> None:
        self.said = said

    async def ask(self, server: Server, question: dns.message.Message) -> dns.message.Message:
        kind = dns.rdatatype.to_text(question.question[0].rdtype)
        if kind not in self.said[server]:
            await asyncio.Event().wait()
        answer, text = dns.message.make_response(question), self.said[server][kind]
        if text is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif text:
            answer.answer = [dns.rrset.from_text(question.question[0].name, 60, "IN", kind, text)]
        return answer


def resolve(said: dict[Server, dict[str, str | None]]) -> tuple[str, ...]:
    """A server's silence would never end here: whoever waited for it would fail by the test's time."""

    async def found() -> tuple[str, ...]:
        async with asyncio.timeout(30.0):
            return tuple(map(str, await addresses_of(NAME, list(said), send=Servers(said).ask)))

    return asyncio.run(found())


def test_both_kinds_of_one_server_are_taken() -> None:
    assert sorted(resolve({ONE: {"A": A, "AAAA": AAAA}})) == sorted((A, AAAA))
    assert resolve({ONE: {"A": A, "AAAA": ""}}) == (A,)


def test_a_server_that_is_silent_about_aaaa_is_not_waited_for() -> None:
    assert resolve({ONE: {"A": A}}) == (A,)
    assert resolve({ONE: {}, TWO: {"A": A}}) == (A,)


def test_a_server_that_knows_nothing_does_not_stand_for_the_other() -> None:
    assert resolve({ONE: {"A": None, "AAAA": None}, TWO: {"A": A, "AAAA": ""}}) == (A,)
    with pytest.raises(NotFoundInDns, match="knows no such name") as caught:
        resolve({ONE: {"A": None, "AAAA": None}})
    assert caught.value.answered


def test_without_a_dns_server_there_is_no_address() -> None:
    with pytest.raises(NotFoundInDns, match="no DNS server"):
        asyncio.run(addresses_of(NAME, []))
