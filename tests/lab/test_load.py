"""Many tunnels at once, and strangers who send rubbish."""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv6Address

import pytest

from portico.lab import deployment
from portico.lab.hosts import PYTHON, Host
from portico.lab.lab import Lab
from portico.lab.services import nginx
from tests.lab.helpers import SERVER_ADDRESS, reaches, start_download
from tests.peers.enrolment import Identity, enrol
from tests.peers.iphttps_peer import Peer, tls

TUNNELS = 1000

pytestmark = pytest.mark.alone
APP6_ADDRESS = IPv6Address("fd7c:1a2b:3c4d:1::6")


@pytest.fixture(scope="module")
def identity(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    token = deployment.enrolment_token(lab.host("da1"), "crowd")
    with lab.host("internet").network():
        return enrol(SERVER_ADDRESS, token, tmp_path_factory.mktemp("crowd"))


def test_a_thousand_tunnels_opened_at_once_all_come_up(lab: Lab, identity: Identity) -> None:
    context = tls(identity.trust, identity.certificate, identity.key)
    begin = threading.Barrier(TUNNELS + 1)

    def one(_: int) -> Peer:
        begin.wait()
        peer = Peer.connect(SERVER_ADDRESS, context=context, timeout=60.0)
        peer.open()
        peer.configure(wait=0.0)
        return peer

    # threads inherit the network of the thread that starts them
    with lab.host("internet").network(), ThreadPoolExecutor(TUNNELS) as crowd:
        pending = [crowd.submit(one, index) for index in range(TUNNELS)]
        begin.wait()
        started = time.monotonic()
        peers = [future.result(120.0) for future in pending]
        seconds = time.monotonic() - started
        list(crowd.map(lambda peer: peer.ping(APP6_ADDRESS, timeout=30.0), peers))
    for peer in peers:
        peer.close()
    assert len({peer.address for peer in peers}) == TUNNELS
    print(f"{TUNNELS} tunnels in {seconds:.1f} s")
    assert reaches(lab.host("client1")), "who was there before is still served"


def test_a_flood_of_garbage_does_not_disturb_an_established_download(lab: Lab, client: Host) -> None:
    checksum = nginx.put_large_file(lab.host("app4"), 200_000_000)
    stop = threading.Event()
    sent = [0]

    def flood() -> None:
        with lab.host("internet").network():
            while not stop.is_set():
                sent[0] += _rubbish(stop)

    strangers = [threading.Thread(target=flood) for _ in range(4)]
    download = start_download(client, f"http://app4.corp.example.net/{nginx.LARGE}", rate="20M")
    for stranger in strangers:
        stranger.start()
    try:
        download.finish(timeout=120.0)
        assert reaches(client), "new connections through the tunnel work as well"
    finally:
        stop.set()
        for stranger in strangers:
            stranger.join()
    assert nginx.checksum(download.file) == checksum
    assert sent[0] > 500, f"only {sent[0]} rubbish connections: this was no flood"


def test_half_open_handshakes_do_not_keep_others_out(lab: Lab, client: Host, server: Host) -> None:
    silent: list[socket.socket] = []
    try:
        with lab.host("internet").network():
            for _ in range(700):
                stranger = socket.create_connection((SERVER_ADDRESS, 443), timeout=5.0)
                silent.append(stranger)
        server.run("portico", "clients", "disconnect", "client1", "--yes")
        started = time.monotonic()
        while not reaches(client, seconds=1.0):
            assert time.monotonic() - started < 30.0, "the client cannot come back while strangers hold handshakes"
    finally:
        for stranger in silent:
            stranger.close()


def test_a_slow_reader_is_bounded_and_does_not_hold_up_others(lab: Lab, client: Host, identity: Identity) -> None:
    """A peer that stops reading while the intranet pours data at it loses packets, nobody else does."""
    mgmt = lab.host("mgmt")
    with lab.host("internet").network():
        peer = Peer.connect(SERVER_ADDRESS, context=tls(identity.trust, identity.certificate, identity.key))
    with peer:
        peer.open()
        peer.configure()
        peer.ping(IPv6Address("fd7c:1a2b:3c4d:1::9"))
        pour = (
            "import socket,sys\n"
            "u=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n"
            "for _ in range(50000): u.sendto(bytes(1200),(sys.argv[1],9))\n"
        )
        mgmt.run(PYTHON, "-c", pour, str(peer.address), timeout=60.0)
        assert reaches(client)


def _rubbish(stop: threading.Event) -> int:
    """A hundred connections of every unfriendly kind; returns how many were made."""
    made = 0
    kinds = [
        b"",
        b"GET / HTTP/1.0\r\n\r\n",
        secrets.token_bytes(3000),
        b"\x16\x03\x01\x40\x00" + secrets.token_bytes(500),
        b"\x16\x03\x01\x00\x05\x01\x00\xff\xff\xff",
    ]
    for index in range(100):
        if stop.is_set():
            break
        try:
            with socket.create_connection((SERVER_ADDRESS, 443), timeout=2.0) as connection:
                made += 1
                if index % 10 == 0:
                    _rubbish_inside_tls(connection)
                else:
                    connection.sendall(kinds[index % len(kinds)])
        except OSError:
            continue
    return made


def _rubbish_inside_tls(connection: socket.socket) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(connection, server_hostname="da.example.net") as secure:
        secure.sendall(b"POST /IPHTTPS HTTP/1.1\r\n" + b"x: y\r\n" * 5000)
