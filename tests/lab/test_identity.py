"""Who gets a tunnel and who does not; a bare-socket peer stands for a Windows client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab.helpers import SERVER_ADDRESS, reaches, through_nat64
from tests.peers.enrolment import Identity, enrol, foreign_identity
from tests.peers.iphttps import Refused, Tunnel, tls

T = TypeVar("T")
PREFIX = IPv6Network("fd7c:1a2b:3c4d:1000::/64")


def on(host: Host, work: Callable[[], Coroutine[Any, Any, T]], timeout: float = 20.0) -> T:
    """Runs a coroutine whose sockets are in the host's network."""
    with host.network():
        return asyncio.run(asyncio.wait_for(work(), timeout))


@pytest.fixture
def identity(lab: Lab, client: Host, server: Host, tmp_path: Path, request: pytest.FixtureRequest) -> Identity:
    """A client of its own for each test, enrolled by hand."""
    name = request.node.name.replace("_", "-").partition("[")[0][:40].strip("-")
    token = deployment.enrolment_token(server, name)
    with client.network():
        return enrol(SERVER_ADDRESS, token, tmp_path / "peer")


def context(identity: Identity) -> Any:
    return tls(identity.trust, identity.certificate, identity.key)


def test_a_bare_socket_peer_gets_a_tunnel_and_reaches_the_intranet(client: Host, identity: Identity) -> None:
    async def work() -> None:
        tunnel = await Tunnel.open(SERVER_ADDRESS, context(identity))
        advertisement = await tunnel.configure()
        assert advertisement.router_lifetime == 0
        assert advertisement.prefixes == [PREFIX]
        assert advertisement.mtu in (None, 1280)
        covered = [network for network in advertisement.routes if IPv6Address("fd7c:1a2b:3c4d:1::6") in network]
        assert covered, advertisement
        for destination in (IPv6Address("fd7c:1a2b:3c4d:1::6"), through_nat64("10.0.0.4")):
            assert await tunnel.ping(destination, b"x" * 1232) == b"x" * 1232
        tunnel.close()

    on(client, work)


def test_two_packets_in_one_record_and_one_packet_over_many(client: Host, identity: Identity) -> None:
    async def work() -> None:
        tunnel = await Tunnel.open(SERVER_ADDRESS, context(identity))
        await tunnel.configure()
        whole = tunnel.send

        def dribble(*packets: bytes) -> None:
            for byte in b"".join(packets):
                whole(bytes([byte]))

        tunnel.send = dribble  # type: ignore[method-assign]
        assert await tunnel.ping(IPv6Address("fd7c:1a2b:3c4d:1::6"), b"slow") == b"slow"

    on(client, work)


def test_garbage_closes_only_its_own_session(client: Host, identity: Identity) -> None:
    async def work() -> None:
        good = await Tunnel.open(SERVER_ADDRESS, context(identity))
        bad = await Tunnel.open(SERVER_ADDRESS, context(identity))
        await good.configure()
        bad.send(b"\x45" + bytes(2000))
        await bad.closed()
        assert await good.ping(IPv6Address("fd7c:1a2b:3c4d:1::6"))

    on(client, work)


def test_a_spoofed_source_gets_nothing(client: Host, identity: Identity) -> None:
    async def work() -> None:
        tunnel = await Tunnel.open(SERVER_ADDRESS, context(identity))
        await tunnel.configure()
        own = tunnel.address
        assert own is not None
        for source in ("fd7c:1a2b:3c4d:1::9", "fd7c:1a2b:3c4d:1000::1", "2001:db8::1"):
            tunnel.address = IPv6Address(source)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(tunnel.ping(IPv6Address("fd7c:1a2b:3c4d:1::6")), 0.5)
        tunnel.address = own
        assert await tunnel.ping(IPv6Address("fd7c:1a2b:3c4d:1::6"), number=2)

    on(client, work)


def test_no_certificate_gets_nothing(client: Host, identity: Identity) -> None:
    with pytest.raises(Refused):
        on(client, lambda: Tunnel.open(SERVER_ADDRESS, tls(identity.trust)))


def test_foreign_certificate_gets_nothing(client: Host, identity: Identity, tmp_path: Path) -> None:
    foreign = foreign_identity(identity.trust, tmp_path / "foreign")
    with pytest.raises(Refused):
        on(client, lambda: Tunnel.open(SERVER_ADDRESS, context(foreign)))


def test_revoked_certificate_gets_nothing_and_its_tunnel_closes_within_a_second(
    client: Host, server: Host, identity: Identity, request: pytest.FixtureRequest
) -> None:
    name = "test-revoked-certificate-gets-nothing-and"[:40].strip("-")

    async def work() -> float:
        tunnel = await Tunnel.open(SERVER_ADDRESS, context(identity))
        await tunnel.configure()
        assert await tunnel.ping(IPv6Address("fd7c:1a2b:3c4d:1::6"))
        revoked: list[float] = []

        def revoke() -> None:
            server.run("portico", "clients", "revoke", name, "--yes")
            revoked.append(time.monotonic())

        command = asyncio.get_running_loop().run_in_executor(None, revoke)
        await tunnel.closed()
        ended = time.monotonic()
        await command
        return ended - revoked[0]

    assert on(client, work) < 1.0
    with pytest.raises(Refused):
        on(client, lambda: Tunnel.open(SERVER_ADDRESS, context(identity)))


def test_a_token_works_once(client: Host, server: Host, tmp_path: Path) -> None:
    token = deployment.enrolment_token(server, "once")
    with client.network():
        enrol(SERVER_ADDRESS, token, tmp_path / "first")
        with pytest.raises(PermissionError):
            enrol(SERVER_ADDRESS, token, tmp_path / "second")


def test_a_client_that_reconnects_keeps_its_address_while_the_old_connection_hangs(
    client: Host, identity: Identity
) -> None:
    async def work() -> None:
        old = await Tunnel.open(SERVER_ADDRESS, context(identity))
        await old.configure()
        assert await old.ping(IPv6Address("fd7c:1a2b:3c4d:1::6"))
        new = await Tunnel.open(SERVER_ADDRESS, context(identity))
        new.address = old.address
        assert await new.ping(IPv6Address("fd7c:1a2b:3c4d:1::6"), b"taken over") == b"taken over"

    on(client, work)


def test_disconnect_closes_the_tunnel_and_the_client_is_back(client: Host, server: Host) -> None:
    server.run("portico", "clients", "disconnect", "client1", "--yes")
    wait.until("client1 to be back", lambda: reaches(client), timeout=10.0)


def test_enrolled_client_that_is_revoked_loses_the_intranet(client: Host, server: Host) -> None:
    """Last in this module: afterwards the module's client has no identity any more."""
    assert reaches(client)
    server.run("portico", "clients", "revoke", "client1", "--yes")
    wait.until("the intranet to be gone", lambda: not reaches(client, seconds=0.5), timeout=3.0)
