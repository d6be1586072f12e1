"""Who gets a tunnel and who does not; a bare-socket peer stands for a Windows client."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from cryptography import x509

from portico.certificates.ca import CertificateAuthority
from portico.lab import deployment, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab.helpers import SERVER_ADDRESS, reaches, through_nat64
from tests.peers.enrolment import Identity, enrol, foreign_identity, identity_signed_by
from tests.peers.iphttps_peer import Peer, Refused, Silence, echo_request, tls

PREFIX = IPv6Network("fd7c:1a2b:3c4d:1000::/64")
APP6_ADDRESS = IPv6Address("fd7c:1a2b:3c4d:1::6")


def client_name(request: pytest.FixtureRequest) -> str:
    return "peer-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]


@pytest.fixture
def identity(client: Host, server: Host, tmp_path: Path, request: pytest.FixtureRequest) -> Identity:
    """A client of its own for each test, enrolled by hand."""
    token = deployment.enrolment_token(server, client_name(request))
    with client.network():
        return enrol(SERVER_ADDRESS, token, tmp_path / "peer")


@contextmanager
def tunnel(host: Host, identity: Identity, *, configured: bool = True) -> Iterator[Peer]:
    """An open tunnel from a host's network."""
    with host.network():
        peer = Peer.connect(SERVER_ADDRESS, context=tls(identity.trust, identity.certificate, identity.key))
    with peer:
        peer.open()
        if configured:
            peer.configure()
        yield peer


def refused(host: Host, identity: Identity) -> None:
    """The identity gets no tunnel: neither an answer nor an advertisement."""
    with pytest.raises(Refused), tunnel(host, identity):
        pytest.fail("a tunnel came up")


def test_a_bare_socket_peer_gets_a_tunnel_and_reaches_the_intranet(client: Host, identity: Identity) -> None:
    with tunnel(client, identity, configured=False) as peer:
        advertisement = peer.configure()
        assert advertisement.router_lifetime == 0
        assert [prefix for prefix, _ in advertisement.prefixes] == [PREFIX]
        assert advertisement.mtu in (None, 1280)
        assert [prefix for prefix, _ in advertisement.routes if APP6_ADDRESS in prefix]
        for destination in (APP6_ADDRESS, through_nat64("10.0.0.4")):
            peer.ping(destination, b"x" * 1232)


def test_a_packet_may_come_in_single_bytes(client: Host, identity: Identity) -> None:
    with tunnel(client, identity) as peer:
        for byte in echo_request(peer.address, APP6_ADDRESS, 7, 1, b"slow"):
            peer.send_raw(bytes([byte]))
        peer.receive_where(lambda packet: packet.icmp_type == 129 and packet.payload.endswith(b"slow"))


def test_garbage_closes_only_its_own_session(client: Host, identity: Identity) -> None:
    with tunnel(client, identity) as good, tunnel(client, identity) as bad:
        bad.send_raw(b"\x45" + bytes(2000))
        bad.wait_closed()
        good.ping(APP6_ADDRESS)


@pytest.mark.parametrize("source", ["fd7c:1a2b:3c4d:1::9", "fd7c:1a2b:3c4d:1000::1", "2001:db8::1", "::1"])
def test_a_spoofed_source_gets_nothing(client: Host, identity: Identity, source: str) -> None:
    with tunnel(client, identity) as peer:
        peer.send(echo_request(IPv6Address(source), APP6_ADDRESS, 7, 1, b"spoofed"))
        with pytest.raises(Silence):
            peer.receive_where(lambda packet: packet.payload.endswith(b"spoofed"), 0.5)
        peer.ping(APP6_ADDRESS)


def test_no_certificate_gets_nothing(client: Host, identity: Identity) -> None:
    with client.network(), pytest.raises(Refused):
        Peer.connect(SERVER_ADDRESS, context=tls(identity.trust)).open()


def test_foreign_certificate_gets_nothing(client: Host, identity: Identity, tmp_path: Path) -> None:
    refused(client, foreign_identity(identity.trust, tmp_path / "foreign"))


def test_expired_certificate_gets_nothing(client: Host, server: Host, identity: Identity, tmp_path: Path) -> None:
    """Signed by the server's own authority: one that is valid gets a tunnel, one of yesterday does not."""
    directory = server.disk / "var/lib/portico/server/certificates"
    authority = CertificateAuthority.load(directory)
    enrolled = x509.load_pem_x509_certificate(Path(identity.certificate).read_bytes())
    now = datetime.now(UTC)
    valid = identity_signed_by(
        authority, enrolled, identity.trust, tmp_path / "valid", now - timedelta(days=2), now + timedelta(days=1)
    )
    with tunnel(client, valid) as peer:
        peer.ping(APP6_ADDRESS)
    expired = identity_signed_by(
        authority, enrolled, identity.trust, tmp_path / "expired", now - timedelta(days=2), now - timedelta(minutes=10)
    )
    refused(client, expired)


@pytest.mark.alone
def test_revoked_certificate_gets_nothing_and_its_tunnel_closes_within_a_second(
    client: Host, server: Host, identity: Identity, request: pytest.FixtureRequest
) -> None:
    with tunnel(client, identity) as peer:
        peer.ping(APP6_ADDRESS)
        revoked: list[float] = []

        def revoke() -> None:
            server.run("portico", "clients", "revoke", client_name(request), "--yes")
            revoked.append(time.monotonic())

        command = threading.Thread(target=revoke)
        command.start()
        peer.wait_closed(15.0)
        closed = time.monotonic()
        command.join()
        assert closed - revoked[0] < 1.0
    refused(client, identity)


def test_a_token_works_once(client: Host, server: Host, tmp_path: Path) -> None:
    token = deployment.enrolment_token(server, "once")
    with client.network():
        enrol(SERVER_ADDRESS, token, tmp_path / "first")
        with pytest.raises(PermissionError):
            enrol(SERVER_ADDRESS, token, tmp_path / "second")


def test_a_client_that_reconnects_keeps_its_address_while_the_old_connection_hangs(
    client: Host, identity: Identity
) -> None:
    with tunnel(client, identity) as old, tunnel(client, identity, configured=False) as new:
        old.ping(APP6_ADDRESS)
        new.addresses.append(old.address)
        new.ping(APP6_ADDRESS, b"taken over")


def test_disconnect_closes_the_tunnel_and_the_client_is_back(client: Host, server: Host) -> None:
    server.run("portico", "clients", "disconnect", "client1", "--yes")
    wait.until("client1 to be back", lambda: reaches(client), timeout=30.0)


def test_an_enrolled_computer_that_is_revoked_loses_the_intranet(lab: Lab, client: Host, server: Host) -> None:
    """Last in this module: afterwards its client has no identity any more."""
    assert reaches(client)
    server.run("portico", "clients", "revoke", "client1", "--yes")
    wait.until("the intranet to be gone", lambda: not reaches(client, seconds=0.5), timeout=30.0)
