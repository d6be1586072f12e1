"""Segment headers between two Portico ends: agreement, super-segments, and nonsense."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv6Address

from tests.gateway.conftest import CLIENT, HOST, checksum, tcp, transport, wait_for
from tests.gateway.conftest import udp as udp_text
from tests.peers.iphttps_peer import Peer, Response, echo_request

from .conftest import TARGET, Site

SOURCE = IPv6Address(CLIENT)


class Segments:
    """A peer that agreed on segment headers."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.buffer = b""

    def send(self, packet: bytes, kind: int = 0, size: int = 0, reserved: int = 0) -> None:
        self.peer.send_raw(struct.pack("!BBH", kind, reserved, size) + packet)

    def receive(self) -> tuple[bytes, bytes]:
        """Header and packet."""
        while len(self.buffer) < 44 or len(self.buffer) < self._total():
            data = self.peer.stream.recv(65536)
            assert data, "the connection was closed"
            self.buffer += data
        total = self._total()
        frame, self.buffer = self.buffer[:total], self.buffer[total:]
        return frame[:4], frame[4:]

    def _total(self) -> int:
        length: int = struct.unpack_from("!H", self.buffer, 8)[0]
        return 44 + length


def negotiate(site: Site, *headers: str) -> tuple[Peer, Response]:
    peer = site.connect()
    peer.request(headers=headers)
    response = peer.response()
    assert response.status == 200
    return peer, response


def segmented(site: Site) -> Segments:
    peer, response = negotiate(site, "Portico-Segments: 1")
    assert [name for name, _ in response.headers] == ["Server", "Date", "Portico-Segments"]
    assert response.header("Portico-Segments") == "1"
    return Segments(peer)


def test_segments_are_used_only_when_both_ends_want_them(make_site: Callable[..., Site], mode: str) -> None:
    site, plain_site = make_site(mode), make_site(mode, segments=False)
    for server, header in [(site, "Portico-Segments: 2"), (site, "Portico-Segments: 1, 1"), (site, "X: 1"),
                           (plain_site, "Portico-Segments: 1")]:  # fmt: skip
        peer, response = negotiate(server, header)
        assert response.header("Portico-Segments") is None
        peer.configure(wait=0.05)
        peer.ping(TARGET)
    agreed = segmented(site)
    agreed.send(echo_request(SOURCE, TARGET, 1, 1, b"x"))
    segment, reply = agreed.receive()
    assert (segment, reply[40], reply[48:]) == (bytes(4), 129, b"x")
    assert [session["segments"] for session in site.server.sessions()][-1] is True


def super_segment(length: int) -> bytes:
    """TCP with the pseudo-header sum where the checksum will be."""
    packet = bytearray(tcp(CLIENT, HOST, 1, bytes(length)))
    pseudo = checksum(bytes(packet[8:40]) + struct.pack("!II", len(packet) - 40, 6))
    packet[56:58] = struct.pack("!H", pseudo)
    return bytes(packet)


def test_super_segments_travel_whole(site: Site) -> None:
    peer = segmented(site)
    packet = super_segment(50_000)
    peer.send(packet, 0x81, 1220)
    wait_for(lambda: site.intranet.packets, "the super-segment")
    assert site.intranet.packets[0].data == packet
    flags, kind, _, size, start, offset, _ = struct.unpack("=BBHHHHH", site.intranet.headers[0])
    assert (flags & 1, kind, size, start, offset) == (1, 4, 1220, 40, 16)


GOOD = echo_request(SOURCE, TARGET, 1, 1, b"x")
DATAGRAM = udp_text(CLIENT, HOST, bytes(3000))
NONSENSE = {
    "unknown kind": (GOOD, 3, 0, 0),
    "kind with other bits": (GOOD, 0x40, 0, 0),
    "reserved byte": (GOOD, 0, 0, 1),
    "size of a plain packet": (GOOD, 0, 100, 0),
    "partial checksum of ICMPv6": (GOOD, 0x80, 0, 0),
    "TCP kind on ICMPv6": (GOOD, 0x81, 100, 0),
    "TCP kind on UDP": (DATAGRAM, 0x81, 1000, 0),
    "UDP kind on TCP": (super_segment(3000), 0x82, 1000, 0),
    "size 0": (super_segment(3000), 0x81, 0, 0),
    "size 1441": (super_segment(3000), 0x81, 1441, 0),
    "one segment only": (super_segment(1000), 0x81, 1000, 0),
    "complete checksum": (super_segment(3000), 0x01, 1000, 0),
    "no transport header": (struct.pack("!IHBB", 6 << 28, 10, 6, 64) + GOOD[8:40] + bytes(10), 0x81, 1, 0),
    "TCP header longer than the packet": (
        transport(CLIENT, HOST, 6, struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 15 << 4, 16, 0, 0, 0) + bytes(20), 16),
        0x81, 1, 0,
    ),
    "TCP header shorter than one": (
        transport(CLIENT, HOST, 6, struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 1 << 4, 16, 0, 0, 0) + bytes(3000), 16),
        0x81, 1000, 0,
    ),
    "extension header": (
        struct.pack("!IHBB", 6 << 28, 3000, 60, 64) + GOOD[8:40] + b"\6\0\1\4\0\0\0\0" + bytes(2992), 0x81, 1000, 0,
    ),
}  # fmt: skip


def test_nonsense_segment_headers_close_only_that_session(site: Site) -> None:
    neighbour = site.join("neighbour")
    context = site.context("client1")
    for count, (name, (packet, kind, size, reserved)) in enumerate(NONSENSE.items(), 1):
        peer = site.connect(context=context)
        peer.request(headers=["Portico-Segments: 1"])
        assert peer.response().status == 200
        Segments(peer).send(packet, kind, size, reserved)
        assert site.down(count)[-1] == "bad_segment", name
    peer = site.connect(context=context)
    peer.request(headers=["Portico-Segments: 1"])
    assert peer.response().status == 200
    Segments(peer).send(b"\x45" + bytes(60))
    assert site.down(len(NONSENSE) + 1)[-1] == "not_ipv6"
    assert site.intranet.heard(lambda packet: packet.source == SOURCE) == []
    neighbour.ping(TARGET)


def test_a_super_segment_obeys_the_link_s_rules(site: Site) -> None:
    """Spoofed and oversized contents are looked at behind a segment header as well."""
    peer = segmented(site)
    spoofed = bytearray(super_segment(3000))
    spoofed[8:24] = TARGET.packed
    peer.send(bytes(spoofed), 0x81, 1000)
    peer.send(echo_request(SOURCE, TARGET, 1, 1, bytes(1281 - 48)))
    header, error = peer.receive()
    assert (header, error[40]) == (bytes(4), 2)
    assert site.intranet.packets == []
    assert site.drops("foreign_source") == 1
