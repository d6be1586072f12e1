"""Peers that behave badly: they cost a bounded amount, they are counted, and nobody else notices."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from ipaddress import IPv6Address

import pytest

from tests.gateway.conftest import CLIENT, PREFIX, SERVER_NAME, wait_for
from tests.peers.iphttps_peer import Peer, Refused, Silence, echo_request, router_solicitation, tls, udp
from tests.timely import Within

from .conftest import TARGET, Site, is_echo_reply

SOURCE = IPv6Address(CLIENT)


class Echo(threading.Thread):
    """An exchange that must not notice anything."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer, self.stop = peer, threading.Event()
        self.times = self.lost = 0
        self.late: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with Within(1.0):
                    self.peer.ping(TARGET, os.urandom(500), timeout=30.0)
            except (Silence, Refused):
                self.lost += 1
                return
            except AssertionError as error:
                self.late.append(str(error))
            self.times += 1
            time.sleep(0.002)


def tcp_socket(site: Site, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", site.port), 30.0, source_address=(source, 0))


def random_bytes(site: Site, context: ssl.SSLContext) -> socket.socket:
    stream = tcp_socket(site)
    stream.sendall(os.urandom(2000))
    return stream


def silence(site: Site, context: ssl.SSLContext) -> socket.socket:
    return tcp_socket(site)


def half_a_hello(site: Site, context: ssl.SSLContext) -> socket.socket:
    stream = tcp_socket(site)
    stream.sendall(b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + os.urandom(100))
    return stream


def endless_hello(site: Site, context: ssl.SSLContext) -> socket.socket:
    """Handshake records that announce 16 MB and go on."""
    stream = tcp_socket(site)
    stream.sendall((b"\x16\x03\x01\x40\0" + b"\1\xff\xff\xff" + bytes(0x4000 - 4)) * 8)
    return stream


def plain_http(site: Site, context: ssl.SSLContext) -> socket.socket:
    stream = tcp_socket(site)
    stream.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return stream


def tls_then_garbage(site: Site, context: ssl.SSLContext) -> socket.socket:
    stream = context.wrap_socket(tcp_socket(site), server_hostname=SERVER_NAME)
    stream.sendall(os.urandom(3000))
    return stream


def tls_then_nothing(site: Site, context: ssl.SSLContext) -> socket.socket:
    return context.wrap_socket(tcp_socket(site), server_hostname=SERVER_NAME)


def slow_head(site: Site, context: ssl.SSLContext, source: str = "127.0.0.1") -> socket.socket:
    stream = context.wrap_socket(tcp_socket(site, source), server_hostname=SERVER_NAME)
    stream.sendall(b"POST /IPHTTPS HTTP/1.1\r\n")
    return stream


def endless_head(site: Site, context: ssl.SSLContext) -> socket.socket:
    stream = context.wrap_socket(tcp_socket(site), server_hostname=SERVER_NAME)
    stream.sendall(b"POST /IPHTTPS HTTP/1.1\r\n" + b"X-Field: value\r\n" * 2000)
    return stream


def tunnel_then_garbage(site: Site, context: ssl.SSLContext) -> socket.socket:
    stream = context.wrap_socket(tcp_socket(site), server_hostname=SERVER_NAME)
    stream.sendall(b"POST /IPHTTPS HTTP/1.1\r\nHost: x\r\n\r\n" + b"\0" + os.urandom(500))
    return stream


KINDS = [
    random_bytes, silence, half_a_hello, endless_hello, plain_http,
    tls_then_garbage, tls_then_nothing, slow_head, endless_head, tunnel_then_garbage,
]  # fmt: skip


def test_garbage_connections_do_not_disturb_an_established_exchange(make_site: Callable[..., Site], mode: str) -> None:
    """200 of them, from four threads, with more at a time than there are places for handshakes."""
    site = make_site(mode, max_handshakes=64)
    peer = site.join("good")
    context = site.context("bad")
    echo = Echo(peer)
    echo.start()
    time.sleep(0.3)
    calm = echo.times
    assert calm
    opened: list[socket.socket] = []
    failed = []

    def attack(first: int) -> None:
        for number in range(first, 200, 4):
            try:
                opened.append(KINDS[number % len(KINDS)](site, context))
            except (OSError, TimeoutError):
                failed.append(number)

    attackers = [threading.Thread(target=attack, args=(first,)) for first in range(4)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        attacker.join(40)
        assert not attacker.is_alive()
    # A newcomer gets in although those who say nothing hold their connections open.
    late = site.join("late")
    late.ping(TARGET)
    echo.stop.set()
    echo.join()
    assert echo.lost == 0
    assert echo.times > calm
    assert not echo.late
    wait_for(lambda: site.server.stats()["gateway"]["accepted"] >= 202, "all to be accepted")
    for stream in opened:
        stream.close()
    stats = wait_for(lambda: (s := site.server.stats()["gateway"])["refused"] >= 180 and s, "all to be refused", 15)
    assert stats["handshake_failures"] >= 60
    assert stats["sessions_opened"] - 2 <= 20
    assert [sum(session["drops"].values()) for session in site.server.sessions()] == [0, 0]
    assert site.server.stats()["sessions"] == 2
    codes = {event["code"] for event in site.server.events("warning")}
    assert "TLS_FAILED" in codes


def drip(peer: Peer, byte: int) -> None:
    """Sends one byte and looks whether the server still listens."""
    peer.send_raw(bytes([byte]))
    peer.stream.settimeout(0.05)
    try:
        if not peer.stream.recv(100):
            raise Refused("closed")
    except TimeoutError:
        return


def test_a_head_that_never_ends_is_cut_off(make_site: Callable[..., Site], mode: str) -> None:
    """One byte at a time, and each soon after the last: the timeout is for the whole head."""
    site = make_site(mode, request_timeout=0.7)
    peer = site.connect()
    neighbour = site.join("neighbour")
    with Within(3.0), pytest.raises((OSError, Refused)):
        for byte in b"POST /IPHTTPS HTTP/1.1\r\n" + b"X-Field: value\r\n" * 100:
            drip(peer, byte)
    assert site.refused() == ["request_timeout"]
    neighbour.ping(TARGET)


def test_slow_heads_in_every_place_do_not_keep_a_newcomer_out(make_site: Callable[..., Site]) -> None:
    """Their own time limit is far away; they give way because somebody waits."""
    site = make_site(max_handshakes=4, request_timeout=60.0, handshake_timeout=60.0)
    context = site.context(None)
    slow = [slow_head(site, context, "127.0.0.2") for _ in range(4)]
    try:
        with Within(10.0):
            newcomer = Peer.connect(
                "127.0.0.1", site.port, context=site.context("newcomer"), name=SERVER_NAME, timeout=30.0
            )
            site.peers.append(newcomer)
            newcomer.open()
            newcomer.configure(wait=0.05)
            newcomer.ping(TARGET)
        assert site.server.stats()["gateway"]["handshakes_evicted"] == 1
    finally:
        for stream in slow:
            stream.close()


def test_a_silent_connection_meets_the_handshake_timeout(make_site: Callable[..., Site]) -> None:
    site = make_site(handshake_timeout=0.3)
    with tcp_socket(site) as stream:
        stream.settimeout(30.0)
        assert stream.recv(100) == b""
    assert site.refused() == ["handshake_timeout"]


def test_a_slow_reader_costs_a_bounded_queue(make_site: Callable[..., Site], mode: str) -> None:
    limit = 1 << 17
    site = make_site(mode, queue_bytes=limit)
    slow, other = site.join("slow"), site.join("other")
    site.settle(slow, other)
    packet = udp(TARGET, slow.address, (1, 2), bytes(1200))
    largest = 0
    for _ in range(200):
        for _ in range(100):
            site.intranet.send(packet)
        sessions = {session["session"]: session for session in site.server.sessions()}
        mine = next(s for s in sessions.values() if str(slow.address) in s["addresses"])
        largest = max(largest, mine["queue_bytes"])
        if mine["drops"]["queue_full"] > 2000:
            break
    assert mine["drops"]["queue_full"] > 2000
    assert limit / 2 < largest <= limit + 4096
    with Within(1.0):
        other.ping(TARGET)
    # What was queued arrives whole, and the stream goes on behind it.
    slow.send(echo_request(slow.address, TARGET, 5, 5, b"still there"))
    received = 0
    while not is_echo_reply(got := slow.receive()):
        assert got.data == packet
        received += 1
        if received % 500 == 0:
            slow.send(echo_request(slow.address, TARGET, 5, 5, b"still there"))
    assert received > 50
    for session in site.server.sessions():
        assert session["queue_bytes"] <= limit + 4096


def test_a_peer_that_never_reads_cannot_grow_answers(site: Site) -> None:
    """Solicitations are answered at a limited rate, whoever asks how often."""
    peer = site.open()
    for _ in range(20):
        peer.send(*[router_solicitation(peer.link_local)] * 100)
    answers = [packet for packet in peer.everything(0.5) if packet.icmp_type == 134]
    assert 40 <= len(answers) <= 60
    assert site.drops("reply_rate") >= 1900


def test_errors_to_clients_are_rate_limited(site: Site) -> None:
    peer = site.join()
    too_long = echo_request(peer.address, TARGET, 1, 1, bytes(1281 - 48))
    peer.send(*[too_long] * 500)
    assert 1 <= len(peer.everything(0.5)) <= 20
    assert site.drops("too_big") == 500


def test_random_streams_never_stop_the_gateway(site: Site) -> None:
    """Random packets with right framing, in both formats: whatever is in them, the session and the others go on."""
    good = site.join("good")
    context = site.context("fuzz")
    for segments in (False, True):
        peer = site.connect(context=context)
        peer.request(headers=["Portico-Segments: 1"] if segments else [])
        assert peer.response().status == 200
        for seed in range(300):
            body = os.urandom(seed % 200)
            kind = [58, 6, 17, 0, 43, 44, 60, 59, 89][seed % 9]
            source = [SOURCE, IPv6Address("::"), IPv6Address(os.urandom(16)), IPv6Address("fe80::7")][seed % 4]
            to = [TARGET, IPv6Address("ff02::1"), IPv6Address(os.urandom(16)), IPv6Address(f"{PREFIX}::1")][seed % 4]
            head = struct.pack("!IHBB", 6 << 28 | seed, len(body), kind, 255 if seed % 2 else 64)
            peer.send_raw((bytes(4) if segments else b"") + head + source.packed + to.packed + body)
        peer.close()
    good.ping(TARGET)
    late = site.join("late", context=context if site.mode == "none" else None)
    late.ping(TARGET)


def test_tls_renegotiation_and_key_updates_are_survived(make_site: Callable[..., Site]) -> None:
    """Alerts, unfinished records and abrupt ends at every stage."""
    site = make_site("none")
    good = site.join("good")
    context = tls(site.trust)
    for stage in range(4):
        stream = tcp_socket(site)
        if stage:
            wrapped = context.wrap_socket(stream, server_hostname=SERVER_NAME)
            if stage > 1:
                wrapped.sendall(b"POST /IPHTTPS HTTP/1.1\r\nHost: x\r\n\r\n")
            if stage > 2:
                wrapped.recv(1000)
            raw = socket.socket(fileno=os.dup(wrapped.fileno()))
            raw.sendall(b"\x17\x03\x03\x40\0" + os.urandom(0x4000))
            raw.sendall(b"\x17\x03\x03\xff\xff" + os.urandom(100))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raw.close()
            wrapped.close()
        else:
            stream.sendall(b"\x15\x03\x03\0\2\2\0" * 10)
            stream.close()
    good.ping(TARGET)
    wait_for(lambda: len(site.server.sessions()) == 1, "the bad ones to be gone")
