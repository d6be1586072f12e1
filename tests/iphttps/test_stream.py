"""HTTP heads and the packet stream behind them."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv6Address

import pytest

from tests.gateway.conftest import wait_for
from tests.peers.iphttps_peer import (
    ENDLESS,
    PACKET_TOO_BIG,
    Peer,
    Refused,
    echo_request,
    udp,
)

from .conftest import TARGET, Site, from_source, is_echo_reply


def test_01_headers_arrive_one_byte_at_a_time(site: Site) -> None:
    peer = site.connect()
    peer.request(piece=1)
    assert peer.response().status == 200
    peer.configure(wait=0.05)
    peer.ping(TARGET)


@pytest.mark.parametrize("cuts", [(1, 2), (39, 40), (40, 41), (4, 6), (44, 100), (20, 141)], ids=str)
def test_02_packets_share_a_record_and_straddle_three(site: Site, cuts: tuple[int, int]) -> None:
    peer = site.join()
    replies = [echo_request(peer.address, TARGET, 7, number, bytes(100)) for number in (1, 2)]
    peer.send(*replies)
    first = [peer.receive_where(is_echo_reply).payload[6:8] for _ in replies]
    assert first == [b"\0\1", b"\0\2"]
    packet = echo_request(peer.address, TARGET, 7, 3, bytes(range(94)))
    start, end = (min(cut, len(packet) - 1) for cut in cuts)
    for piece in (packet[:start], packet[start:end], packet[end:]):
        peer.send_raw(piece)
        time.sleep(0.01)
    assert peer.receive_where(is_echo_reply).payload[8:] == bytes(range(94))


def test_02_a_packet_in_single_bytes_and_many_in_one_write(site: Site) -> None:
    peer = site.join()
    for byte in echo_request(peer.address, TARGET, 7, 1, b"slow"):
        peer.send_raw(bytes([byte]))
    assert peer.receive_where(is_echo_reply).payload[8:] == b"slow"
    many = [echo_request(peer.address, TARGET, 7, number, bytes(number)) for number in range(300)]
    peer.send(*many)
    lengths = [len(peer.receive_where(is_echo_reply).payload) - 8 for _ in many]
    assert lengths == list(range(300))


def test_03_garbage_nibble_closes_only_that_session(site: Site) -> None:
    neighbour = site.join("neighbour")
    context = site.context("client2")
    nibbles = [nibble for nibble in range(16) if nibble != 6]
    for nibble in nibbles:
        peer = site.open(context=context)
        peer.addresses = [IPv6Address(f"fd00:1:2:1000::{nibble + 1:x}00")]
        good = echo_request(peer.address, TARGET, 1, nibble, b"")
        peer.send(good, bytes([nibble << 4]) + bytes(60))
        # What came before the garbage was whole and counts.
        wait_for(partial(site.intranet.heard, from_source(peer.address)), "the good packet")
        peer.wait_closed(2.0)
    assert site.down(len(nibbles)) == ["not_ipv6"] * len(nibbles)
    neighbour.ping(TARGET)


def test_03_garbage_in_the_record_of_the_request_leaves_nothing_behind(
    make_site: Callable[..., Site], mode: str
) -> None:
    """The tunnel is up and over within one record: its place in the client table is free again."""
    site = make_site(mode, max_sessions=2)
    context = site.context()
    for _ in range(4):
        peer = site.connect(context=context)
        peer.request(body=b"\x45" + bytes(60))
        assert peer.response().status == 200
        ended(peer)
    assert site.down(4) == ["not_ipv6"] * 4
    assert (site.server.sessions(), site.server.stats()["sessions"]) == ([], 0)
    site.join().ping(TARGET)


def test_03_ipv4_is_never_carried(site: Site) -> None:
    peer = site.join()
    before = len(site.intranet.packets)
    peer.send(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2") + bytes(8))
    peer.wait_closed(2.0)
    assert not site.intranet.packets[before:]


@pytest.mark.parametrize("length", [None, 0, 2**63, ENDLESS, 2**64, 77], ids=str)
def test_14_content_length_variants(site: Site, length: int | None) -> None:
    """A server must not look at the number: the request never ends."""
    peer = site.connect()
    peer.request(content_length=length)
    assert peer.response().status == 200
    peer.configure(wait=0.05)
    for size in (10, 1000):
        peer.ping(TARGET, bytes(size))


@pytest.mark.parametrize("path", ["/IPHTTPS", "/iphttps", "/IPHTTPs", "/IPTLS", "https://da.example.net:443/IPHTTPS"])
def test_14_the_path_in_every_known_form(site: Site, path: str) -> None:
    peer = site.connect()
    peer.request(path)
    assert peer.response().status == 200


def test_14_any_header_order_unknown_headers_and_a_content_type(site: Site) -> None:
    peer = site.connect()
    head = "POST /IPHTTPS HTTP/1.1\r\nhost: x\r\nContent-Type: application/octet-stream\r\nX-Unknown: \xe9\r\n"
    peer.send_raw((head + f"CONTENT-LENGTH:{ENDLESS}\r\n\r\n").encode("latin-1"))
    assert peer.response().status == 200
    peer.configure(wait=0.05)
    peer.ping(TARGET)


def test_the_accept_is_what_the_specification_prescribes(site: Site) -> None:
    peer = site.connect()
    peer.request()
    response = peer.response()
    assert response.line == "HTTP/1.1 200 OK"
    assert [name for name, _ in response.headers] == ["Server", "Date"]
    date = response.header("Date")
    assert date is not None
    # The weekday must fit too: strptime alone does not compare it.
    parsed = datetime.strptime(date, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    assert parsed.strftime("%a, %d %b %Y %H:%M:%S GMT") == date
    assert abs((datetime.now(UTC) - parsed).total_seconds()) < 5


def test_stream_bytes_in_the_record_of_the_request_count(site: Site) -> None:
    """No client sends before the answer, but a tolerant server loses nothing of one that does."""
    peer = site.connect()
    address = IPv6Address("fd00:1:2:1000::beef")
    packet = echo_request(address, TARGET, 9, 1, b"early")
    peer.request(body=packet + packet[:50])
    assert peer.response().status == 200
    assert peer.receive_where(is_echo_reply).payload[8:] == b"early"
    peer.send_raw(packet[50:])
    assert peer.receive_where(is_echo_reply).payload[8:] == b"early"


def test_a_jumbogram_is_a_bare_header(site: Site) -> None:
    """Payload Length 0 is cut as 40 bytes, and framing goes on behind it."""
    peer = site.join()
    bare = b"\x60\0\0\0\0\0\x3b\x40" + peer.address.packed + TARGET.packed
    peer.send(bare, echo_request(peer.address, TARGET, 1, 1, b"behind"))
    assert peer.receive_where(is_echo_reply).payload[8:] == b"behind"


def test_15_mtu_is_1280_from_the_client(site: Site) -> None:
    peer = site.join()
    largest = peer.ping(TARGET, bytes(1280 - 48))
    assert len(largest.data) == 1280
    too_long = echo_request(peer.address, TARGET, 1, 1, bytes(1281 - 48))
    peer.send(too_long)
    error = peer.receive_where(lambda packet: packet.icmp_type == PACKET_TOO_BIG)
    assert error.source == IPv6Address(site.server.config["iphttps"]["addresses"][0])
    assert error.destination == peer.address
    assert error.checksum_is_right()
    assert len(error.data) <= 1280
    assert struct.unpack("!I", error.payload[4:8]) == (1280,)
    assert error.payload[8:] == too_long[: len(error.payload) - 8]
    peer.ping(TARGET)
    assert not site.intranet.heard(lambda packet: len(packet.data) > 1280)


def test_15_mtu_is_1280_to_the_client(site: Site) -> None:
    """A Windows client takes nothing longer, whatever MTU somebody gave the device."""
    peer = site.join()
    site.intranet.send(udp(TARGET, peer.address, (1, 2), bytes(1280 - 48)))
    assert len(peer.receive().data) == 1280
    too_long = udp(TARGET, peer.address, (1, 2), bytes(1281 - 48))
    site.intranet.send(too_long)
    errors = wait_for(lambda: site.intranet.heard(lambda packet: packet.icmp_type == PACKET_TOO_BIG), "the error")
    assert errors[0].destination == TARGET
    assert errors[0].checksum_is_right()
    assert struct.unpack("!I", errors[0].payload[4:8]) == (1280,)
    assert peer.everything(0.2) == []


def test_13_one_port_serves_iphttps_and_everything_else(site: Site) -> None:
    """SSTP is answered in good order while tunnels live on; management requests are handed up and answered."""
    tunnel = site.join()
    sstp = site.connect("client2")
    sstp.send_raw(
        b"SSTP_DUPLEX_POST /sra_{BA195980-CD49-458b-9E23-C84EE0ADCD75}/ HTTP/1.1\r\nHost: da.example.net\r\n"
        b"Content-Length: 18446744073709551615\r\nSSTPCORRELATIONID: {5A433238-8781-11E3-B2E4-4E6D617021DE}\r\n\r\n"
    )
    response = sstp.response()
    assert response.status == 404
    assert response.header("Content-Length") is not None
    ended(sstp)
    for line in ("POST /KdcProxy", "GET /IPHTTPS", "POST /IPHTTPS/deeper", "GET /", "OPTIONS *"):
        other = site.connect("client3")
        other.send_raw(f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        assert other.response().status == 404, line
    tunnel.ping(TARGET)
    body = json.dumps({"id": "x", "secret": "y"}).encode()
    enrolling = site.connect(None)
    enrolling.send_raw(b"POST /portico/v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
    enrolling.send_raw(f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
    enrolling.send_raw(body[5:])
    request = site.server.wait_event("request")
    assert (request["method"], request["path"], request["identity"]) == ("POST", "/portico/v1/enrol", None)
    assert site.server.gateway.answer(request["request"], 201, "application/json", b'{"ok":true}')
    response = enrolling.response()
    assert (response.status, response.header("Content-Type")) == (201, "application/json")
    assert response.header("Content-Length") == "11"
    tunnel.ping(TARGET)


def test_13_management_requests_are_bounded(make_site: Callable[..., Site]) -> None:
    site = make_site(change=lambda config: config["http"].update(timeout=0.5))
    for fields, status in [
        ("Content-Length: 1025\r\n", 413),
        (f"Content-Length: {ENDLESS}\r\n", 413),
        ("Content-Length: -1\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", 411),
    ]:
        peer = site.connect(None)
        peer.send_raw(f"POST /portico/v1/enrol HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
        assert peer.response().status == status, fields
        ended(peer)
    waiting = [site.connect(None) for _ in range(5)]
    for count, peer in enumerate(waiting[:4], 1):
        peer.send_raw(b"GET /portico/v1/trust HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(partial(requests_are, site, count), "the request")
    waiting[4].send_raw(b"GET /portico/v1/trust HTTP/1.1\r\nHost: x\r\n\r\n")
    assert waiting[4].response().status == 503
    # Nobody answers the first ones: they are not kept for ever.
    for peer in waiting[:4]:
        ended(peer)
    assert wait_for(lambda: site.server.stats()["requests_pending"] == 0, "the places to be free")


def requests_are(site: Site, count: int) -> bool:
    return len(site.server.events("request")) == count


def ended(peer: Peer) -> None:
    """Waits until the server has closed an HTTP connection."""
    peer.stream.settimeout(30.0)
    try:
        while peer.stream.recv(4096):
            pass
    except (OSError, Refused) as error:
        assert not isinstance(error, TimeoutError), "the connection is still open"
