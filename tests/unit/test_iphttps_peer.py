"""The bare-socket peer itself: against bytes written by hand and a server that is a script."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network

import pytest

from tests.peers.iphttps_peer import (
    ALL_NODES,
    Advertisement,
    Packet,
    Peer,
    Refused,
    Silence,
    duplicate_probe,
    icmpv6,
    listener_report,
    neighbour_solicitation,
    udp,
)

SERVER = IPv6Address("fe80::1")
ANSWER = b"HTTP/1.1 200 OK\r\nServer: Microsoft-HTTPAPI/2.0\r\nDate: Sun, 10 Aug 2008 03:51:52 GMT\r\n\r\n"
ADVERTISEMENT = bytes.fromhex(
    "40000000 00000000 00000000"
    "030440c0 00015180 00003840 00000000 fd7c1a2b3c4d10000000000000000000"
    "18023000 00000708 fd7c1a2b3c4d0000"
    "05010000 00000500"
)


def scripted(script: Callable[[socket.socket], None]) -> tuple[Peer, threading.Thread]:
    """A peer whose other end runs `script`."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs:
            theirs.settimeout(5)
            script(theirs)

    thread = threading.Thread(target=run)
    thread.start()
    return Peer(ours, timeout=5), thread


def test_a_probe_written_by_hand() -> None:
    expected = (
        "600000000018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff000001"
        "8700 7c25 00000000 fe800000000000000000000000000001"
    )
    assert duplicate_probe(SERVER) == bytes.fromhex(expected)


def test_checksums_verify() -> None:
    datagram = Packet(udp(SERVER, ALL_NODES, (1, 2), b"odd"))
    assert datagram.checksum_is_right()
    assert not Packet(datagram.data[:-1] + b"x").checksum_is_right()
    report = Packet(listener_report(SERVER, ALL_NODES))
    assert (report.protocol, report.hop_limit, len(report.data)) == (0, 1, 76)


def test_the_request_is_the_specification_s() -> None:
    seen: list[bytes] = []

    def script(stream: socket.socket) -> None:
        seen.append(stream.recv(4096))
        stream.sendall(ANSWER)

    peer, thread = scripted(script)
    assert peer.open().header("date") == "Sun, 10 Aug 2008 03:51:52 GMT"
    thread.join()
    assert seen == [b"POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: da.example.net\r\n\r\n"]


def test_a_disconnect_is_a_refusal() -> None:
    def script(stream: socket.socket) -> None:
        stream.recv(4096)

    peer, thread = scripted(script)
    with pytest.raises(Refused):
        peer.open()
    thread.join()


def test_configuration_and_packets_cut_anywhere() -> None:
    def script(stream: socket.socket) -> None:
        stream.recv(4096)
        stream.sendall(ANSWER)
        solicitor = Packet(stream.recv(4096))
        packet = icmpv6(SERVER, solicitor.source, 134, ADVERTISEMENT)
        for start in range(0, len(packet), 7):
            stream.sendall(packet[start : start + 7])
        probe = Packet(stream.recv(4096))
        stream.sendall(neighbour_solicitation(SERVER, solicitor.source, solicitor.source) + b"\x60")
        answer = Packet(stream.recv(4096))
        assert (probe.source, answer.target) == (IPv6Address("::"), solicitor.source)
        assert answer.payload[4] == 0x60
        stream.recv(1)

    peer, thread = scripted(script)
    peer.open()
    advertisement = peer.configure()
    assert isinstance(advertisement, Advertisement)
    assert advertisement.packet.checksum_is_right()
    assert (advertisement.router_lifetime, advertisement.mtu) == (0, 1280)
    assert advertisement.prefixes == [(IPv6Network("fd7c:1a2b:3c4d:1000::/64"), 0xC0)]
    assert advertisement.routes == [(IPv6Network("fd7c:1a2b:3c4d::/48"), 1800)]
    assert peer.address in IPv6Network("fd7c:1a2b:3c4d:1000::/64")
    peer.send_raw(b"x")
    with pytest.raises(Refused):
        peer.receive()
    thread.join()


def test_silence_has_a_name() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Peer(ours) as peer:
        with pytest.raises(Silence):
            peer.receive(0.01)
        assert peer.everything(0.01) == []
