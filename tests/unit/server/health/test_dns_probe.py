"""A DNS server answers, or does not, as asked by the probe over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from portico.server.health import dns_probe
from portico.settings.document import load_data

DATA: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    "dns64": {
        "upstream_servers": ["10.0.0.53", "10.0.0.54:5353"],
        "conditional_forwarding": [{"suffix": "branch.example.org", "servers": ["10.9.0.53"]}],
    },
}


class Server(asyncio.DatagramProtocol):
    def __init__(self, code: dns.rcode.Rcode, silences: int, delays: list[float]) -> None:
        self.code, self.silences, self.delays = code, silences, delays
        self.asked: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        question = dns.message.from_wire(data)
        self.asked.append(question.question[0].to_text())
        if self.silences:
            self.silences -= 1
            return
        answer = dns.message.make_response(question)
        answer.set_rcode(self.code)
        delay = self.delays.pop(0) if self.delays else 0.0
        asyncio.get_running_loop().call_later(delay, self.transport.sendto, answer.to_wire(), address)


def asked(
    code: dns.rcode.Rcode, silences: int = 0, delays: list[float] | None = None
) -> tuple[tuple[bool, str, float | None], list[str]]:
    async def body() -> tuple[tuple[bool, str, float | None], list[str]]:
        loop = asyncio.get_running_loop()
        make: Callable[[], Server] = lambda: Server(code, silences, delays or [])  # noqa: E731
        transport, server = await loop.create_datagram_endpoint(make, local_addr=("127.0.0.1", 0))
        try:
            port = transport.get_extra_info("sockname")[1]
            return await dns_probe.ask("127.0.0.1", port, "corp.example.net"), server.asked
        finally:
            transport.close()

    return asyncio.run(body())


@pytest.mark.parametrize(
    ("code", "well"),
    [
        (dns.rcode.NOERROR, True),
        (dns.rcode.NXDOMAIN, True),
        (dns.rcode.SERVFAIL, False),
        (dns.rcode.REFUSED, False),
    ],
)
def test_answers(code: dns.rcode.Rcode, well: bool) -> None:
    (answers, detail, seconds), questions = asked(code)
    assert (answers, detail) == (well, dns.rcode.to_text(code)) and seconds is not None
    assert questions[0] == "corp.example.net. IN SOA"


def test_one_lost_datagram_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_probe, "ANSWER_SECONDS", 0.5)
    answer, questions = asked(dns.rcode.NOERROR, silences=1)
    assert answer[:2] == (True, "NOERROR") and len(questions) == 2
    answer, _ = asked(dns.rcode.NOERROR, silences=9)
    assert answer == (False, "no answer", None)


def test_a_server_is_as_slow_as_the_quicker_of_two_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_probe, "SLOW_SECONDS", 0.3)
    (answers, detail, seconds), questions = asked(dns.rcode.NOERROR, delays=[0.6, 0.4])
    assert (answers, detail, len(questions)) == (True, "NOERROR", 2)
    assert seconds is not None and seconds >= 0.4
    # One that was held up once is not slow.
    monkeypatch.setattr(dns_probe, "SLOW_SECONDS", 1.5)
    (_, _, seconds), questions = asked(dns.rcode.NOERROR, delays=[1.6])
    assert len(questions) == 2 and seconds is not None and seconds < 1.6


def test_a_closed_port_is_told() -> None:
    well, detail, _ = asyncio.run(dns_probe.ask("127.0.0.1", 1, "corp.example.net"))
    assert not well and detail


def test_first_servers_of_each_domain_come_first() -> None:
    assert dns_probe.configured(load_data(DATA)) == [
        ("", "10.0.0.53", 53),
        ("branch.example.org", "10.9.0.53", 53),
        ("", "10.0.0.54", 5353),
    ]
