"""The resolver over real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rrset
import pytest

from portico.client.resolver.core import Resolver, Timing
from portico.client.resolver.server import ResolverServer, random_below, split_server
from portico.errors import Conflict
from portico.naming.nrpt import Rule, Table


class Upstream(asyncio.DatagramProtocol):
    """A DNS server that answers every AAAA with its own address."""

    def __init__(self, address: str, records: int = 1) -> None:
        self.address = address
        self.records = records
        self.asked: list[str] = []
        self.place = ""
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> Upstream:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", port))
        self.place = f"127.0.0.1:{port}"
        return self

    def stop(self) -> None:
        assert self._transport is not None
        assert self._server is not None
        self._transport.close()
        self._server.close()

    def answer(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        self.asked.append(name.to_text())
        response = dns.message.make_response(query)
        texts = [f"{self.address}{number:x}" for number in range(self.records)]
        response.answer.append(dns.rrset.from_text(name, 60, "IN", "AAAA", *texts))
        return response.to_wire(max_size=65535)

    def datagram_received(self, data: bytes, addr: object) -> None:
        assert self._transport is not None
        self._transport.sendto(self.answer(data), addr)  # type: ignore[arg-type]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        data = self.answer(await reader.readexactly(size))
        writer.write(len(data).to_bytes(2, "big") + data)
        await writer.drain()
        writer.close()


class PortedTable(Table):
    """Rules whose servers listen on a port of the test's."""

    def __init__(self, rules: list[Rule], place: str) -> None:
        super().__init__(rules)
        self._place = place

    def servers_for(self, name: str, *, suffix: str = "") -> tuple[str, ...] | None:  # type: ignore[override]
        return (self._place,) if super().servers_for(name, suffix=suffix) else None


def dialogue(test: Callable[[ResolverServer, Upstream, Upstream], Awaitable[None]]) -> None:
    async def run() -> None:
        inside, outside = await Upstream("fd00::1").start(), await Upstream("2001:db8::1").start()
        table = PortedTable([Rule(".corp.example.net", (ip_address("fd00:3333::1"),))], inside.place)
        core = Resolver(table, random=random_below, outside=(outside.place,), timing=Timing(attempt=0.2, total=1.0))
        server = ResolverServer(core, port=0)
        await server.start()
        server.set_tunnel(True)
        try:
            await test(server, inside, outside)
        finally:
            await server.stop()
            inside.stop()
            outside.stop()

    asyncio.run(asyncio.wait_for(run(), 20))


async def ask(server: ResolverServer, name: str, *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, "AAAA", use_edns=0, payload=1232)
    method = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await method(query, server.address, port=server.port, timeout=5)


def test_fifty_names_in_parallel_go_where_they_belong() -> None:
    async def test(server: ResolverServer, inside: Upstream, outside: Upstream) -> None:
        names = [f"h{number}.corp.example.net." for number in range(25)]
        others = [f"h{number}.example.org." for number in range(25)]
        answers = await asyncio.gather(*(ask(server, name, tcp=name.startswith("h1")) for name in names + others))
        assert sorted(inside.asked) == sorted(names)
        assert sorted(outside.asked) == sorted(others)
        assert all(answer.rcode() == dns.rcode.NOERROR for answer in answers)
        assert server.counters()["under_way"] == 0

    dialogue(test)


def test_large_answers_come_over_tcp() -> None:
    async def test(server: ResolverServer, inside: Upstream, _: Upstream) -> None:
        inside.records = 200
        query = dns.message.make_query("big.corp.example.net", "AAAA")
        answer, over_tcp = await dns.asyncquery.udp_with_fallback(query, server.address, port=server.port, timeout=5)
        assert over_tcp
        assert len(answer.answer[0]) == 200

    dialogue(test)


def test_garbage_on_both_sockets_disturbs_nobody() -> None:
    async def test(server: ResolverServer, _: Upstream, __: Upstream) -> None:
        loop = asyncio.get_running_loop()
        transport, _p = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(server.address, server.port)
        )
        for size in range(0, 200, 7):
            transport.sendto(bytes(range(256))[:size])
        transport.close()
        _reader, writer = await asyncio.open_connection(server.address, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.close()
        assert (await ask(server, "www.example.org")).answer
        assert not server._requesters

    dialogue(test)


def test_a_server_that_is_gone_is_told_at_once() -> None:
    async def test(server: ResolverServer, _: Upstream, outside: Upstream) -> None:
        outside.stop()
        began = asyncio.get_running_loop().time()
        for tcp in (False, True):
            assert (await ask(server, "www.example.org", tcp=tcp)).rcode() == dns.rcode.SERVFAIL
        assert asyncio.get_running_loop().time() - began < 1.0

    dialogue(test)


def test_an_address_that_is_taken_is_named_and_the_next_one_is_used() -> None:
    async def run() -> None:
        core = Resolver(Table([]), random=random_below)
        first = ResolverServer(core, port=0)
        await first.start()
        second = ResolverServer(core, addresses=("127.0.0.1", "127.0.0.64"), port=first.port)
        await second.start()
        assert second.address == "127.0.0.64"
        with pytest.raises(Conflict, match=str(first.port)):
            await ResolverServer(core, port=first.port).start()
        await second.stop()
        await first.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("10.0.0.53", ("10.0.0.53", 53)),
        ("10.0.0.53:5353", ("10.0.0.53", 5353)),
        ("fd00::53", ("fd00::53", 53)),
        ("fe80::1%eth0", ("fe80::1%eth0", 53)),
        ("[fd00::53]:5353", ("fd00::53", 5353)),
    ],
)
def test_forms_of_a_server(text: str, place: tuple[str, int]) -> None:
    assert split_server(text) == place
