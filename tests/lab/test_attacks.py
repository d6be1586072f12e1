"""Attacks from outside and from a client that turned bad: the limit that stops each, the counter that shows it.

While each runs, an honest client goes on: what it had before loses nothing, and new connections are made.
`docs/security.md` has the table. What needs no whole deployment is in tests/iphttps/test_hostile.py and
tests/gateway/test_limits.py; floods of connections are in test_load.py.
"""

from __future__ import annotations

import re
import secrets
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from typing import Any

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import PYTHON, Host
from portico.lab.lab import Lab
from tests.lab.helpers import APP4, APP6, SERVER_ADDRESS, reaches, through_nat64
from tests.peers.enrolment import Identity, enrol
from tests.peers.iphttps_peer import (
    ALL_NODES,
    ICMPV6,
    ROUTER_ADVERTISEMENT,
    TCP,
    Peer,
    checksum,
    duplicate_probe,
    echo_request,
    icmpv6,
    ipv6,
    neighbour_advertisement,
    tls,
    udp,
)

APP6_ADDRESS = IPv6Address("fd7c:1a2b:3c4d:1::6")
DNS64 = IPv6Address("fd7c:1a2b:3c4d:3333::1")
PREFIX = "fd7c:1a2b:3c4d:1000"
APP4_ADDRESS = through_nat64("10.0.0.4")


@pytest.fixture(scope="module")
def identity(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    token = deployment.enrolment_token(lab.host("da1"), "rogue")
    with lab.host("internet").network():
        return enrol(SERVER_ADDRESS, token, tmp_path_factory.mktemp("rogue"))


@pytest.fixture
def rogue(lab: Lab, identity: Identity) -> Iterator[Peer]:
    """A client with a good certificate and bad intentions."""
    with lab.host("internet").network():
        peer = Peer.connect(SERVER_ADDRESS, context=tls(identity.trust, identity.certificate, identity.key))
    with peer:
        peer.open()
        peer.configure()
        peer.ping(APP6_ADDRESS)
        yield peer


@pytest.fixture(autouse=True)
def honest(client: Host) -> Iterator[None]:
    """Somebody else's service goes on: one connection lives through the attack, and others are made after it."""
    wait.until("the honest client", lambda: reaches(client), timeout=30.0)
    ping = client.popen(
        ["sh", "-c", f"echo $$ >/run/honest.pid; exec ping -6 -q -i 0.05 {APP6_ADDRESS}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield
        assert reaches(client, APP6), "native connections are made"
        assert reaches(client, APP4), "connections through NAT64 are made"
    finally:
        client.run("sh", "-c", "kill -INT $(cat /run/honest.pid)")
        said, _ = ping.communicate(timeout=10.0)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert found is not None, said
    sent, received = int(found[1]), int(found[2])
    assert received >= sent - 2, f"the honest client lost packets: {said}"


def counters(server: Host) -> dict[str, Any]:
    """What `portico server status --json` shows, from where it gets it: quicker than starting an interpreter."""
    socket_path = "/run/portico/server.sock"
    found: dict[str, Any] = server.json("curl", "-sf", "--unix-socket", socket_path, "http://agent/v1/status")
    counted: dict[str, Any] = found["counters"]
    return counted


class Rise:
    """How much counters rose since this was made."""

    def __init__(self, server: Host) -> None:
        self.server = server
        self.before = counters(server)

    def of(self, *path: str) -> int:
        now: Any = counters(self.server)
        then: Any = self.before
        for key in path:
            now, then = now[key], then[key]
        return int(now) - int(then)

    def until(self, least: int, *path: str) -> int:
        wait.until(f"{'.'.join(path)} to rise by {least}", lambda: self.of(*path) >= least, timeout=30.0)
        return self.of(*path)


def tcp_segment(source: IPv6Address, destination: IPv6Address, ports: tuple[int, int], flags: int = 2) -> bytes:
    head = struct.pack("!HHIIBBHHH", *ports, 1000, 0, 0x50, flags, 1000, 0, 0)
    pseudo = source.packed + destination.packed + struct.pack("!II", len(head), TCP)
    value = checksum(pseudo + head)
    return ipv6(source, destination, TCP, head[:16] + struct.pack("!H", value) + head[18:])


def dns_query(name: str, kind: int = 28, number: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1)


@contextmanager
def stranger(lab: Lab, context: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    """A connection of somebody on the Internet, with TLS when a context is given."""
    with lab.host("internet").network():
        stream = socket.create_connection((SERVER_ADDRESS, 443), timeout=5.0)
    with stream:
        if context is None:
            yield stream
        else:
            with context.wrap_socket(stream, server_hostname="da.example.net") as secure:
                yield secure


# --- before there is a tunnel


def test_slowloris_in_tls_and_http_gives_way_to_newcomers(lab: Lab, server: Host, identity: Identity) -> None:
    """Half a ClientHello, and a request head that never ends: both cost a place that newcomers may take."""
    rise = Rise(server)
    context = tls(identity.trust)
    held: list[socket.socket] = []
    try:
        with lab.host("internet").network():
            for number in range(600):
                stream = socket.create_connection((SERVER_ADDRESS, 443), timeout=5.0)
                stream.sendall(b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + secrets.token_bytes(number % 64))
                held.append(stream)
            for _ in range(8):
                stream = socket.create_connection((SERVER_ADDRESS, 443), timeout=5.0)
                secure = context.wrap_socket(stream, server_hostname="da.example.net")
                secure.sendall(b"POST /IPHTTPS HTTP/1.1\r\nX-Slow: ")
                held.append(secure)
            started = time.monotonic()
            newcomer = Peer.connect(SERVER_ADDRESS, context=tls(identity.trust, identity.certificate, identity.key))
        with newcomer:
            newcomer.open()
            newcomer.configure()
            newcomer.ping(APP6_ADDRESS)
        assert time.monotonic() - started < 10.0
        rise.until(1, "gateway", "handshakes_evicted")
    finally:
        for stream in held:
            stream.close()


def test_records_that_carry_nothing_end_the_connection(lab: Lab, server: Host, identity: Identity) -> None:
    """Thousands of empty and tiny records in the clear, where a ClientHello belongs."""
    rise = Rise(server)
    for record in (b"\x16\x03\x01\0\0", b"\x16\x03\x01\0\1\1", b"\x17\x03\x03\0\0", b"\x15\x03\x01\0\2\1\0"):
        with stranger(lab) as stream:
            stream.settimeout(5.0)
            with pytest.raises(OSError):
                for _ in range(200):
                    stream.sendall(record * 100)
                    time.sleep(0.001)
                while stream.recv(4096):
                    pass
                raise ConnectionResetError
    rise.until(4, "gateway", "refused")


def test_a_flood_of_key_updates_is_cut_off(lab: Lab, server: Host, identity: Identity) -> None:
    """OpenSSL's client asks for new keys again and again; each answer costs the server a key derivation."""
    rise = Rise(server)
    update = "for n in $(seq 60); do echo K; sleep 0.02; done"
    script = rf"(printf 'POST /IPHTTPS HTTP/1.1\r\nHost: x\r\n\r\n'; sleep 0.3; {update})"
    files = f"-CAfile {identity.trust} -cert {identity.certificate} -key {identity.key}"
    command = f"{script} | timeout 10 openssl s_client -tls1_3 -connect {SERVER_ADDRESS}:443 {files}"
    with lab.host("internet").network():
        subprocess.run(["sh", "-c", command], capture_output=True, timeout=20.0, check=False)
    rise.until(1, "gateway", "tls_floods")


def test_renegotiation_is_refused(lab: Lab, server: Host, identity: Identity) -> None:
    """TLS 1.2: a second handshake on a connection is answered by a warning once, and then by the end."""
    files = f"-CAfile {identity.trust} -cert {identity.certificate} -key {identity.key}"
    command = (
        "(printf 'POST /IPHTTPS HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'; sleep 0.3; echo R; sleep 0.5; echo R; sleep 0.5) | "
        f"timeout 10 openssl s_client -tls1_2 -connect {SERVER_ADDRESS}:443 {files}"
    )
    with lab.host("internet").network():
        got = subprocess.run(["sh", "-c", command], capture_output=True, timeout=20.0, check=False)
    assert b"renegotiat" in got.stderr.lower(), got.stderr[-600:]


# --- inside the tunnel: sizes, sources, neighbours


def test_tiny_and_giant_packets(server: Host, rogue: Peer) -> None:
    rise = Rise(server)
    giant = echo_request(rogue.address, APP6_ADDRESS, 1, 1, bytes(60_000))
    bare = ipv6(rogue.address, APP6_ADDRESS, 59, b"")
    jumbo = bare[:4] + b"\0\0\0" + bare[7:]
    for _ in range(50):
        rogue.send(*[giant] * 2, *[bare] * 100, jumbo)
    rogue.ping(APP6_ADDRESS, timeout=10.0)
    assert rise.until(100, "link", "drops", "too_big") == 100
    assert rise.of("link", "events", "errors") <= 30, "errors about them are limited"


def test_no_packet_leaves_under_another_s_address(client: Host, server: Host, rogue: Peer) -> None:
    """Sources of the other client, the server, the intranet and NAT64: nothing reaches the intranet."""
    rise = Rise(server)
    victim = IPv6Address(deployment.tunnel_address(client))
    sources = {
        "address_in_use": [victim],
        "server_source": [IPv6Address(f"{PREFIX}::1"), DNS64],
        "foreign_source": [APP6_ADDRESS, APP4_ADDRESS, IPv6Address("2001:db8::1")],
    }
    for reason, addresses in sources.items():
        for source in addresses:
            rogue.send(*[echo_request(source, APP6_ADDRESS, 66, 66, b"spoofed")] * 20)
        rise.until(20 * len(addresses), "link", "drops", reason)
    rogue.send(*[neighbour_advertisement(rogue.link_local, IPv6Address("fe80::1"), victim, 0x60)] * 20)
    rogue.send(*[icmpv6(rogue.link_local, ALL_NODES, ROUTER_ADVERTISEMENT, b"\x40\0\x07\x08" + bytes(8))] * 20)
    rise.until(20, "link", "drops", "rogue_router")
    assert reaches(client), "the victim's address still is the victim's"


def test_one_client_cannot_fill_the_neighbour_table(server: Host, rogue: Peer) -> None:
    """Thousands of addresses claimed by one client, by use and by duplicate address probes."""
    rise = Rise(server)
    claims = [IPv6Address(f"{PREFIX}:bad::{number:x}") for number in range(1, 3001)]
    for start in range(0, len(claims), 100):
        some = claims[start : start + 100]
        rogue.send(*[echo_request(address, APP6_ADDRESS, 1, 1, b"") for address in some])
        rogue.send(*[duplicate_probe(address) for address in some])
    rise.until(2900, "link", "drops", "address_limit")
    assert rise.of("tables", "addresses") <= 8


# --- NAT64


def test_one_client_cannot_exhaust_nat64(server: Host, rogue: Peer) -> None:
    """SYNs from every port of one client: its share is its share."""
    rise = Rise(server)
    limit = 4096
    for start in range(1, 8001, 200):
        ports = range(start, start + 200)
        rogue.send(*[tcp_segment(rogue.address, APP4_ADDRESS, (port, 80)) for port in ports])
    refused = rise.until(3000, "nat64", "refused_client_bindings")
    assert refused <= 8000 - limit / 2
    assert rise.of("nat64", "bindings") <= limit


def test_a_flood_of_fragments_is_bounded(server: Host, rogue: Peer) -> None:
    """Fragments of packets whose first fragment never comes."""
    rise = Rise(server)

    def fragment(number: int, offset: int, data: bytes, more: bool = True) -> bytes:
        header = struct.pack("!BBHI", 17, 0, offset | more, number)
        return ipv6(rogue.address, APP4_ADDRESS, 44, header + data)

    for start in range(0, 4000, 100):
        rogue.send(*[fragment(number, 8 * (1 + number % 100), bytes(1000)) for number in range(start, start + 100)])
    rise.until(1000, "nat64", "refused_fragments_full")


def test_a_flood_of_icmp_errors_opens_and_closes_nothing(server: Host, rogue: Peer) -> None:
    """Errors about packets that nobody sent, and packets that call for errors."""
    rise = Rise(server)
    quoted = tcp_segment(APP4_ADDRESS, rogue.address, (80, 4242), 16)
    lies = icmpv6(rogue.address, APP4_ADDRESS, 1, bytes(4) + quoted, code=4, hop_limit=64)
    for _ in range(20):
        rogue.send(*[lies] * 100)
    rise.until(2000, "nat64", "refused_icmp_quote")
    before = time.monotonic()
    for start in range(0, 2000, 100):
        # From many ports: packets of one flow travel on as one, and count as one.
        packets = [udp(rogue.address, APP4_ADDRESS, (1000 + start + number, 6), b"x") for number in range(100)]
        rogue.send(*[packet[:7] + b"\1" + packet[8:] for packet in packets])
    rise.until(2000, "nat64", "refused_hop_limit")
    seconds = time.monotonic() - before
    answers = [packet for packet in rogue.everything(0.3) if packet.protocol == ICMPV6 and packet.icmp_type == 3]
    assert len(answers) <= 100 * (seconds + 2), "100 errors a second, whoever asks for more"
    assert rise.of("nat64", "errors_limited") >= 1000


# --- DNS64


def test_dns64_does_not_amplify(server: Host, rogue: Peer) -> None:
    """ANY by UDP is answered by "ask by TCP", in no more bytes than the question."""
    rise = Rise(server)
    query = dns_query("corp.example.net", kind=255)
    rogue.send(udp(rogue.address, DNS64, (4000, 53), query))
    answer = rogue.receive_where(lambda packet: packet.protocol == 17, 5.0).payload[8:]
    assert len(answer) <= len(query)
    assert answer[2] & 0x02, "truncated"
    rise.until(1, "dns64", "answered_any_by_tcp")


def test_one_client_cannot_ask_dns64_without_end(client: Host, server: Host, rogue: Peer) -> None:
    """Questions over the client's rate: no answer, or "ask by TCP" every other time; the intranet's DNS is spared."""
    rise = Rise(server)
    per_second, burst, count = 100, 200, 1500
    before = time.monotonic()
    for start in range(0, count, 100):
        # Names that nobody asked for before: the cache knows nothing of them.
        queries = [
            dns_query(f"n{number}-{secrets.token_hex(4)}.corp.example.net") for number in range(start, start + 100)
        ]
        rogue.send(*[udp(rogue.address, DNS64, (5000, 53), query) for query in queries])
        # As fast as they are taken: what the socket has no room for would not be counted.
        rise.until(start + 100, "dns64", "queries_udp")
    rise.until(300, "dns64", "dropped_client_rate")
    answers = [packet.payload[8:] for packet in rogue.everything(0.5) if packet.protocol == 17]
    allowed = burst + per_second * (time.monotonic() - before) + 1
    now, then = counters(server)["dns64"], rise.before["dns64"]
    dropped, slipped, asked = (
        now[key] - then[key] for key in ("dropped_client_rate", "answered_client_rate_by_tcp", "upstream_udp")
    )
    assert abs(dropped - slipped) <= 1 + allowed, "one of two is told the way to TCP"
    assert asked <= 2 * allowed, "each question that was let through may be asked twice"
    truncated = [answer for answer in answers if answer[2] & 0x02]
    assert truncated and all(len(answer) <= len(queries[0]) for answer in truncated), "no more bytes than the question"
    assert len(answers) - len(truncated) <= allowed
    # The rate is each client's own.
    assert client.output("dig", "+short", "+tries=1", "+time=2", "AAAA", f"{secrets.token_hex(4)}.{APP4}") == ""
    assert client.output("dig", "+short", "+tries=1", "+time=2", "AAAA", APP4) == str(APP4_ADDRESS)


def test_dns64_takes_no_answer_that_it_did_not_ask_for(lab: Lab, client: Host, server: Host, rogue: Peer) -> None:
    """Answers pushed through the tunnel to its port, and forged ones from the intranet to the ports it might use."""
    rise = Rise(server)
    poison = struct.pack("!6H", 7, 0x8180, 1, 1, 0, 0) + dns_query("www.corp.example.net")[12:]
    poison += b"\xc0\x0c" + struct.pack("!HHIH", 28, 1, 3600, 16) + IPv6Address("2001:db8::bad").packed
    rogue.send(*[udp(rogue.address, DNS64, (53, 53), poison)] * 200)
    rise.until(150, "dns64", "dropped_garbage")
    forge = (
        "import socket,struct,sys\n"
        "raw=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_RAW)\n"
        "data=bytes.fromhex(sys.argv[1])\n"
        "for port in range(1024,65536,8):\n"
        "    udp=struct.pack('!HHHH',53,port,8+len(data),0)+data\n"
        "    ip=struct.pack('!BBHHHBBH4s4s',0x45,0,20+len(udp),port,0,64,17,0,"
        "socket.inet_aton('10.0.0.53'),socket.inet_aton('10.0.0.2'))\n"
        "    raw.sendto(ip+udp,('10.0.0.2',0))\n"
    )
    lab.host("mgmt").run(PYTHON, "-c", forge, poison.hex(), timeout=30.0)
    got = client.run("dig", "+short", "AAAA", "www.corp.example.net", check=False)
    assert "2001:db8::bad" not in got.stdout
