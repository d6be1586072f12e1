"""What a gateway does with peers that it does not want, or does not want any more."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.timely import Within

from .conftest import CLIENT, HOST, Authority, Client, Server, Tun, ipv6, udp, wait_for

NAT64 = "fd00:1:2:7777::a00:4"


def test_revocation_closes_within_a_second(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server()
    chain, key, certificate = server.authority.issue("client1")
    client = start_client(server, (chain, key))
    client.wait_up()
    server.config["revoked"] = [server.authority.revoked(certificate)]
    with Within(1.0):
        server.configure()
        wait_for(lambda: not server.sessions(), "the session is gone")
    assert server.wait_event("session_down")["reason"] == "revoked"
    # It redials at once and resumes its TLS session, or tries to; neither helps.
    wait_for(lambda: client.status()["error"], "an error at the client")
    assert server.sessions() == []


def test_foreign_and_expired_certificates_get_nothing(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server()
    foreign = Authority("foreign").issue("client1")[:2]
    expired = server.authority.issue("client1", lifetime=timedelta(minutes=-1))[:2]
    clients = [start_client(server, identity) for identity in (foreign, expired)]
    wait_for(lambda: all(client.status()["error"] for client in clients), "errors at both clients")
    assert server.events("session_up") == []


def test_a_session_ends_with_its_certificate(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server()
    client = start_client(server, server.authority.issue("client1", lifetime=timedelta(seconds=3))[:2])
    client.wait_up()
    assert server.wait_event("session_down", 6.0)["reason"] == "not_admitted"


def test_a_full_table_disconnects(start_server: Callable[..., Server], start_client: Callable[..., Client]) -> None:
    server = start_server(lambda config: config["iphttps"].update(max_sessions=1))
    first = start_client(server)
    first.wait_up()
    second = start_client(server, server.authority.issue("client2")[:2])
    assert server.wait_event("refused")["reason"] == "table_full"
    assert second.status()["state"] != "link_up"
    assert first.status()["state"] == "link_up"


def test_resumption_survives_the_server(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server()
    client = start_client(server)
    client.wait_up()
    server.gateway.disconnect([server.sessions()[0]["session"]])
    wait_for(lambda: len(server.events("session_up")) == 2, "a second session")
    assert [event["resumed"] for event in server.events("session_up")] == [False, True]


def test_a_garbage_flood_does_not_disturb(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server(lambda config: config["iphttps"].update(max_handshakes=8))
    client = start_client(server)
    client.wait_up()
    garbage = []
    for number in range(300):
        peer = socket.create_connection(("127.0.0.1", server.port))
        peer.setblocking(False)
        if number % 2:
            peer.send(os.urandom(600))
        garbage.append(peer)
        if number % 10 == 0:
            packet = udp(CLIENT, HOST, number.to_bytes(4, "big"))
            client.tun.send(packet)
            assert server.tuns[0].packet(1.0) == packet
    late = start_client(server, server.authority.issue("client2")[:2], link_local="fe80::c2", connect_timeout=30.0)
    for peer in garbage[:200]:
        peer.close()
    late.wait_up(25.0)
    for peer in garbage:
        peer.close()
    assert client.status()["state"] == "link_up"


def test_a_slow_reader_is_bounded(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """A peer that never reads: its queue fills, its packets are dropped and counted, nothing else happens."""
    server = start_server(lambda config: config["iphttps"].update(queue_bytes=100_000))
    chain, key, _ = server.authority.issue("client1")
    (tmp_path / "client.pem").write_text(chain + key)
    context = ssl.create_default_context(cadata=server.authority.pem)
    context.load_cert_chain(tmp_path / "client.pem")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    raw.connect(("127.0.0.1", server.port))
    with context.wrap_socket(raw, server_hostname="da.example.net") as peer:
        peer.sendall(b"POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: da.example.net\r\n\r\n")
        assert peer.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        peer.sendall(ipv6(CLIENT, HOST, 59, b""))
        assert server.tuns[0].packet() == ipv6(CLIENT, HOST, 59, b"")
        packet = udp(HOST, CLIENT, bytes(1200))

        def full() -> int:
            for _ in range(200):
                server.tuns[0].send(packet)
            return int(server.sessions()[0]["drops"]["queue_full"])

        server.tuns[0].socket.settimeout(30.0)
        wait_for(full, "drops")
        assert server.sessions()[0]["queue_bytes"] <= 400_000


def test_requests_are_handed_up_and_answered(start_server: Callable[..., Server]) -> None:
    server = start_server()
    context = ssl.create_default_context(cadata=server.authority.pem)
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", server.port)), server_hostname="da.example.net"
    ) as peer:
        peer.sendall(b"GET /portico/v1/trust HTTP/1.1\r\nHost: da.example.net\r\n\r\n")
        request = server.wait_event("request")
        assert (request["method"], request["path"], request["identity"]) == ("GET", "/portico/v1/trust", None)
        assert server.gateway.answer(request["request"], 200, "text/plain", b"trust me")
        assert not server.gateway.answer(request["request"], 200, "text/plain", b"again")
        data = b""
        while piece := peer.recv(4096):
            data += piece
    assert data.startswith(b"HTTP/1.1 200 ") and data.endswith(b"\r\n\r\ntrust me")


def nat64(config: dict[str, Any]) -> None:
    config["nat64"] = {
        "prefix": "fd00:1:2:7777::/96",
        "pool": [{"address": "10.0.0.2", "ports": [32768, 60999]}],
        "mtu": 1500,
        "ipv6_mtu": 1280,
        "address": "fd00:1:2:1000::1",
        "tcp_established": 7440,
        "tcp_transitory": 240,
        "udp": 300,
        "icmp": 60,
        "max_bindings": 1000,
        "max_bindings_per_client": 100,
    }


def test_ipv4_hosts_are_reached_through_nat64(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server(nat64)
    client = start_client(server)
    client.wait_up()
    client.tun.send(udp(CLIENT, NAT64, b"question"))
    packet = server.nat64[0].packet()
    assert (packet[0] >> 4, packet[9]) == (4, 17)
    assert (packet[12:16], packet[16:20]) == (bytes([10, 0, 0, 2]), bytes([10, 0, 0, 4]))
    assert packet[28:] == b"question"
    # The answer: addresses and ports exchanged, which changes neither checksum.
    answer = packet[:12] + packet[16:20] + packet[12:16] + packet[22:24] + packet[20:22] + packet[24:]
    server.nat64[0].send(answer)
    back = client.tun.packet()
    assert back[48:] == b"question"
    assert back[8:24] == socket.inet_pton(socket.AF_INET6, NAT64)
    assert json.loads(server.gateway.stats())["nat64"]["bindings"] == 1


def test_many_tunnels_come_up(start_server: Callable[..., Server], start_client: Callable[..., Client]) -> None:
    server = start_server(workers=2)
    identity = server.authority.issue("client1")[:2]
    clients = [start_client(server, identity, link_local=f"fe80::c:{number:x}") for number in range(1, 41)]
    for client in clients:
        client.wait_up(20.0)
    assert len(server.sessions()) == len(clients)


class SlowPeer:
    """A peer of its own, TLS over memory, so that a test says when each message goes out."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.raw = socket.create_connection(("127.0.0.1", port))
        self.raw.settimeout(30.0)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="da.example.net")
        self._step()

    def _step(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.raw.sendall(self._out.read())
        return True

    def finish(self) -> bytes:
        """The rest of the handshake and the request; returns the start of the response, empty when turned away."""
        try:
            while not self._step():
                data = self.raw.recv(65536)
                if not data:
                    return b""
                self._in.write(data)
            self.tls.write(b"POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: x\r\n\r\n")
            self.raw.sendall(self._out.read())
            while True:
                try:
                    return self.tls.read(15)
                except ssl.SSLWantReadError:
                    data = self.raw.recv(65536)
                    if not data:
                        return b""
                    self._in.write(data)
        except OSError:
            return b""


def certified(server: Server, tmp_path: Path) -> ssl.SSLContext:
    chain, key, _ = server.authority.issue("client1")
    (tmp_path / "client.pem").write_text(chain + key)
    context = ssl.create_default_context(cadata=server.authority.pem)
    context.load_cert_chain(tmp_path / "client.pem")
    return context


def test_slow_peers_are_waited_for_and_others_queue(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """More than may be set up at a time, each busy elsewhere for longer than a silent connection is given."""
    server = start_server(
        lambda config: config["iphttps"].update(max_handshakes=8, handshake_timeout=15.0, request_timeout=15.0)
    )
    context = certified(server, tmp_path)
    begin = threading.Barrier(24)

    def one(_: int) -> bytes:
        begin.wait()
        peer = SlowPeer(server.port, context)
        time.sleep(1.6)
        response = peer.finish()
        peers.append(peer)
        return response

    peers: list[SlowPeer] = []
    with ThreadPoolExecutor(24) as crowd:
        assert list(crowd.map(one, range(24))) == [b"HTTP/1.1 200 OK"] * 24
    counters = server.stats()["gateway"]
    assert (counters["refused"], counters["handshakes_evicted"]) == (0, 0)
    assert counters["admission_waits"] > 0
    for peer in peers:
        peer.raw.close()


def test_silent_connections_give_way_at_once_to_those_that_speak(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(lambda config: config["iphttps"].update(max_handshakes=8, handshake_timeout=60.0))
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(16)]
    with Within(8.0):
        peer = SlowPeer(server.port, certified(server, tmp_path))
        assert peer.finish() == b"HTTP/1.1 200 OK"
    assert server.stats()["gateway"]["handshakes_evicted"] >= 9
    for connection in [*silent, peer.raw]:
        connection.close()


def test_a_client_without_its_device_connects_all_the_same(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    """The device is read beside the handshake; one that fails does not hold it up."""
    server = start_server()
    tun = Tun()
    tun.socket.close()
    client = start_client(server, tun=tun)
    client.wait_up(2.5)
