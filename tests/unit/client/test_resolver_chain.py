"""Names as a client asks for them, through all that is between: NRPT resolver, DNS64, BIND, and a server that lies.

stub --- NRPT resolver --- DNS64 (gateway) --- BIND inside: corp.example.net
                |                  `---------- a server that lies about AAAA: lies.corp.example.net
                `----------------------------- BIND outside: example.org, and what the Internet knows of corp
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from portico._gateway import Gateway
from portico.client.resolver.core import Resolver, Timing
from portico.client.resolver.server import ResolverServer, random_below
from portico.naming.nrpt import Rule
from tests.dns64.conftest import PREFIX, Server, free_port, needed, wait_for
from tests.gateway.conftest import Authority, Tun, listeners, server_config
from tests.unit.client.test_resolver_server import PortedTable

LOOPBACK = "127.0.0.1"
LIES = "lies.corp.example.net"
_HEAD = "$TTL 60\n@ IN SOA ns root 1 3600 600 86400 60\n@ IN NS ns\nns IN A 127.0.0.1\n"


def _zones() -> dict[str, str]:
    hosts = "".join(f"h{number} IN A 10.0.1.{number}\n" for number in range(20))
    large = "".join(f"large IN A 10.2.0.{number}\n" for number in range(1, 101))
    public = "".join(f"h{number} IN AAAA 2001:db8::bad:{number:x}\n" for number in range(20))
    www = "".join(f"www{number} IN AAAA 2001:db8::{number:x}\n" for number in range(15))
    return {
        "inside": _HEAD + hosts + large + "native IN AAAA fd7c:1a2b:3c4d:1::6\nnls IN A 10.0.0.2\n",
        # Whoever asks the Internet for a name of the intranet would see it by the answer.
        "outside": _HEAD + public + "nls IN AAAA 2001:db8::80\nda IN AAAA 2001:db8::11\n",
        "internet": _HEAD + www,
    }


class Liar(asyncio.DatagramProtocol):
    """Knows an A record for every name; about AAAA it does what RFC 4074 section 4 collects, by the first label."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, peer: object) -> None:
        answer = self._answer(dns.message.from_wire(data))
        if answer is not None:
            self._transport.sendto(answer, peer)  # type: ignore[attr-defined]

    def _answer(self, query: dns.message.Message) -> bytes | None:
        (question,) = query.question
        lie = question.name.labels[0].decode().lower()
        answer = dns.message.make_response(query)
        if question.rdtype != dns.rdatatype.AAAA:
            if question.rdtype == dns.rdatatype.A:
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "10.0.0.4"))
            return answer.to_wire()
        match lie:
            case "silent":
                return None
            case "servfail" | "notimp" | "refused" | "nxdomain":
                answer.set_rcode(dns.rcode.from_text(lie))
            case "mapped":
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "AAAA", "::ffff:10.0.0.4"))
            case "broken":  # the data of an A record
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TYPE28", "\\# 4 0a000004"))
            case "empty":
                pass
        return answer.to_wire()


@dataclass
class Chain:
    """Where a stub asks."""

    resolver: ResolverServer
    dns64: Gateway

    async def ask(self, name: str, kind: str = "AAAA", *, tcp: bool = False) -> tuple[dns.message.Message, bool]:
        """An answer as a stub gets it, and whether it came over TCP in the end."""
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        place, port = self.resolver.address, self.resolver.port
        if tcp:
            return await dns.asyncquery.tcp(query, place, port=port, timeout=30.0), True
        return await dns.asyncquery.udp_with_fallback(query, place, port=port, timeout=30.0)


def addresses(message: dns.message.Message) -> set[str]:
    return {str(rdata) for rrset in message.answer if rrset.rdtype == dns.rdatatype.AAAA for rdata in rrset}


def _named(ends: ExitStack, directory: Path, zones: dict[str, str]) -> int:
    """Starts BIND with zones of these names; its port."""
    directory.mkdir()
    port = free_port()
    for name, text in zones.items():
        (directory / name).write_text(text)
    listed = "".join(f'zone "{name}" {{ type primary; file "{name}"; }};\n' for name in zones)
    (directory / "named.conf").write_text(f"""
options {{
    directory "{directory}"; pid-file none; session-keyfile none; recursion no; dnssec-validation no; notify no;
    listen-on port {port} {{ {LOOPBACK}; }}; listen-on-v6 {{ none; }};
}};
controls {{ }};
{listed}""")
    log = directory / "log"
    output = ends.enter_context(log.open("w"))
    command = [needed("named", "bind9"), "-g", "-n", "1", "-c", str(directory / "named.conf")]
    process = ends.enter_context(subprocess.Popen(command, stdout=output, stderr=output))
    ends.callback(process.terminate)
    wait_for(Server(port), process, log, "ns.corp.example.net")
    return port


@pytest.fixture(scope="module")
def bind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """The ports of BIND inside and outside."""
    directory = tmp_path_factory.mktemp("bind")
    with ExitStack() as ends:
        inside = _named(ends, directory / "inside", {"corp.example.net": _zones()["inside"]})
        others = {"corp.example.net": _zones()["outside"], "example.org": _zones()["internet"]}
        yield inside, _named(ends, directory / "outside", others)


Scenario = Callable[[Chain], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture
def through(bind: tuple[int, int]) -> Run:
    """Runs a scenario with the whole chain; keywords go into the configuration of DNS64."""
    inside, outside = bind

    def run(scenario: Scenario, **dns64: object) -> None:
        async def body() -> None:
            loop = asyncio.get_running_loop()
            lying, _ = await loop.create_datagram_endpoint(Liar, local_addr=(LOOPBACK, 0))
            liar = lying.get_extra_info("sockname")[1]
            with ExitStack() as ends:
                ends.callback(lying.close)
                gateway, place = _dns64(ends, [("", inside), (LIES, liar)], dns64)
                rules = [
                    Rule(".corp.example.net", (ip_address("fd00:3333::1"),)),
                    Rule("nls.corp.example.net", ()),
                ]
                core = Resolver(
                    PortedTable(rules, place),
                    random=random_below,
                    outside=(f"{LOOPBACK}:{outside}",),
                    exempt=("da.corp.example.net",),
                    timing=Timing(attempt=20.0, total=60.0),  # patience for a machine that has no time
                )
                resolver = ResolverServer(core, port=0)
                await resolver.start()
                resolver.set_tunnel(True)
                try:
                    await scenario(Chain(resolver, gateway))
                finally:
                    await resolver.stop()

        asyncio.run(asyncio.wait_for(body(), 120))

    return run


def _dns64(ends: ExitStack, upstreams: list[tuple[str, int]], changes: dict[str, object]) -> tuple[Gateway, str]:
    """A gateway that has nothing to do but DNS64, and where that listens."""
    config = server_config(Authority())
    config["dns64"] = {
        "prefix": f"{PREFIX}/96",
        "only_send_a_query": False,
        "always_synthesize": False,
        "latency_ms": 0,
        "exclusions": [],
        "upstreams": [{"suffix": suffix, "servers": [f"{LOOPBACK}:{port}"]} for suffix, port in upstreams],
        "timeout": 5.0,
        "cache_entries": 1000,
        "max_queries": 1000,
        "max_queries_per_client": 1000,
        **changes,
    }
    port = free_port()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((LOOPBACK, port))
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    stream.bind((LOOPBACK, port))
    stream.listen(64)
    tun, (fds, _) = Tun(), listeners(1)
    gateway = Gateway(
        json.dumps(config),
        tunnel_fds=[tun.fd],
        nat64_fds=[],
        listener_fds=fds,
        dns_udp_fds=[datagrams.detach()],
        dns_tcp_fds=[stream.detach()],
    )
    ends.callback(tun.close)
    ends.callback(gateway.close)
    return gateway, f"{LOOPBACK}:{port}"


def test_fifty_names_at_once_get_the_answers_of_where_they_belong(through: Run) -> None:
    """Split and exempt names, synthesized and native, small and large, over UDP and TCP."""
    expected: dict[str, set[str]] = {
        **{f"h{number}.corp.example.net": {f"{PREFIX}a00:1{number:02x}"} for number in range(20)},
        **{f"www{number}.example.org": {f"2001:db8::{number:x}"} for number in range(15)},
        "native.corp.example.net": {"fd7c:1a2b:3c4d:1::6"},
        "nls.corp.example.net": {"2001:db8::80"},
        "da.corp.example.net": {"2001:db8::11"},
        "nowhere.corp.example.net": set(),
        "nowhere.example.org": set(),
        "large.corp.example.net": {f"{PREFIX}a02:{number:x}" for number in range(1, 101)},
    }
    names = [*expected, *(f"{'Hh'[number % 2]}{number}.Corp.example.NET" for number in range(9))]
    assert len(names) == 50

    async def scenario(chain: Chain) -> None:
        found = await asyncio.gather(*(chain.ask(name, tcp=number % 5 == 0) for number, name in enumerate(names)))
        for number, (name, (answer, over_tcp)) in enumerate(zip(names, found, strict=True)):
            wanted = expected[name.lower()]
            assert {ip_address(text) for text in addresses(answer)} == {ip_address(text) for text in wanted}, name
            absent = name.startswith("nowhere.")
            assert answer.rcode() == (dns.rcode.NXDOMAIN if absent else dns.rcode.NOERROR), name
            # The large answer is cut over UDP, and asked for again.
            assert over_tcp == (number % 5 == 0 or name.startswith("large.")), name
            assert answer.question[0].name.to_text(omit_final_dot=True) == name, "in the requester's spelling"
        counters = chain.resolver.counters()
        assert (counters["under_way"], counters["failed"]) == (0, 0)
        assert counters["outside"] == 15 + 1 + 2, "example.org, the exempt names, and nothing else"

    through(scenario)


@pytest.mark.parametrize("only_a", [False, True], ids=["both", "only-a"])
def test_a_server_that_lies_about_aaaa_hides_no_ipv4_server(through: Run, only_a: bool) -> None:
    """RFC 4074 section 4, answered by RFC 6147 sections 5.1.2 to 5.1.4; where only A is asked, no lie is heard."""
    lies = ("silent", "servfail", "notimp", "refused", "mapped", "broken", "empty", "nxdomain")

    async def scenario(chain: Chain) -> None:
        names = [f"{lie}.{LIES}" for lie in lies]
        honest = [f"h{number}.corp.example.net" for number in range(20)]
        found = await asyncio.gather(*(chain.ask(name) for name in (*names, *honest)))
        for name, (answer, _) in zip((*names, *honest), found, strict=True):
            if name.startswith("nxdomain.") and not only_a:
                assert (answer.rcode(), answer.answer) == (dns.rcode.NXDOMAIN, []), "there is no such name, it says"
                continue
            assert answer.rcode() == dns.rcode.NOERROR, name
            (address,) = addresses(answer)
            assert ip_address(address) in {ip_address(f"{PREFIX}a00:4")} or name in honest, name
        assert chain.resolver.counters()["under_way"] == 0

    through(scenario, only_send_a_query=only_a)
