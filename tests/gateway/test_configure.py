"""A gateway that gets another configuration while it serves."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .conftest import CLIENT, Authority, Client, Server, _gateway, listeners, server_config, udp, wait_for
from .test_limits import NAT64, nat64


def bound(client: Client, server: Server, port: int) -> bytes:
    """Sends through NAT64 from a port and returns the answer's packet, ready to be sent."""
    client.tun.send(udp(CLIENT, NAT64, b"question", (port, 53)))
    packet = server.nat64[0].packet()
    return packet[:12] + packet[16:20] + packet[12:16] + packet[22:24] + packet[20:22] + packet[24:]


def test_bindings_survive_other_timeouts_and_a_pool_that_has_them(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server(nat64)
    client = start_client(server)
    client.wait_up()
    kept, lost = bound(client, server, 40000), bound(client, server, 50000)
    server.config["nat64"] |= {"udp": 120, "pool": [{"address": "10.0.0.2", "ports": [39000, 41000]}]}
    server.configure()
    server.nat64[0].send(lost)
    server.nat64[0].send(kept)
    assert client.tun.packet()[40:44] == struct.pack("!HH", 53, 40000)
    assert server.stats()["nat64"]["bindings"] == 1
    assert "1 bindings" in server.wait_event("warning")["text"]
    assert len(server.sessions()) == 1

    server.config["nat64"]["pool"] = [{"address": "10.0.0.2", "ports": [41000, 39000]}]
    with pytest.raises(ValueError, match=r"nat64\.pool"):
        server.configure()
    server.nat64[0].send(kept)
    assert client.tun.packet()[40:44] == struct.pack("!HH", 53, 40000)


def test_sessions_of_an_authority_that_is_gone_are_closed(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    other = Authority("other")
    server = start_server(lambda config: config["tls"].update(client_ca=config["tls"]["client_ca"] + other.pem))
    client = start_client(server)
    stranger = start_client(server, other.issue("client2")[:2], link_local="fe80::c2")
    client.wait_up()
    stranger.wait_up()
    server.config["tls"]["client_ca"] = server.authority.pem
    server.configure()
    assert server.wait_event("session_down")["reason"] == "not_admitted"
    wait_for(lambda: stranger.status()["error"], "the other cannot come back, not with its ticket either")
    assert [session["identity"]["subject"] for session in server.sessions()] == ["client1"]
    assert client.status()["state"] == "link_up"


@pytest.mark.parametrize(("before", "after"), [("certificates", "none"), ("none", "certificates")])
def test_a_change_of_authentication_closes_every_session(
    start_server: Callable[..., Server], start_client: Callable[..., Client], before: str, after: str
) -> None:
    server = start_server(lambda config: config["iphttps"].update(authentication=before), workers=2)
    clients = [start_client(server, link_local=f"fe80::c:{number:x}") for number in range(1, 5)]
    for client in clients:
        client.wait_up()
    server.config["iphttps"]["authentication"] = after
    server.configure()
    wait_for(lambda: len(server.events("session_down")) == 4, "all are closed")
    assert {event["reason"] for event in server.events("session_down")} == {"authentication_changed"}
    wait_for(lambda: len(server.sessions()) == 4, "all are back")
    if after == "certificates":
        assert {session["identity"]["subject"] for session in server.sessions()} == {"client1"}


def test_another_number_of_workers_needs_a_restart(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.config["workers"] = 2
    with pytest.raises(ValueError, match=r"workers: 1 run.*restart"):
        server.configure()


def test_all_workers_say_that_they_turn(start_server: Callable[..., Server]) -> None:
    server = start_server(workers=2)
    assert server.gateway.turned(30.0)
    for time in (-1.0, float("nan"), 1e300):
        with pytest.raises(ValueError, match="timeout"):
            server.gateway.turned(time)
    server.gateway.close()
    with pytest.raises(ValueError, match="closed"):
        server.gateway.turned(1.0)


@pytest.fixture
def name_server() -> Iterator[tuple[Server, tuple[str, int]]]:
    """A gateway with a socket for DNS64, which is off."""
    authority = Authority()
    config = server_config(authority)
    dns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    dns.bind(("::1", 0))
    address = dns.getsockname()[:2]
    fds, port = listeners(1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gateway = _gateway.Gateway(
        json.dumps(config),
        tunnel_fds=[theirs.detach()],
        nat64_fds=[],
        listener_fds=fds,
        dns_udp_fds=[dns.detach()],
        dns_tcp_fds=[],
    )
    yield Server(authority, config, [], [], port, gateway), address
    gateway.close()
    ours.close()


def dns64(upstream: socket.socket, **changes: Any) -> dict[str, Any]:
    return {
        "prefix": "fd00:1:2:7777::/96",
        "only_send_a_query": True,
        "always_synthesize": False,
        "latency_ms": 0,
        "exclusions": [],
        "upstreams": [{"suffix": "", "servers": [f"127.0.0.1:{upstream.getsockname()[1]}"]}],
        "timeout": 2.0,
        "cache_entries": 100,
        "max_queries": 100,
        "max_queries_per_client": 100,
    } | changes


def test_dns64_is_switched_on_changed_and_off(name_server: tuple[Server, tuple[str, int]]) -> None:
    server, address = name_server
    assert server.stats()["dns64"] is None
    question = b"\x04app4\x04corp\x07example\x03net\x00\x00\x1c\x00\x01"
    query = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream, ExitStack() as askers:
        upstream.bind(("127.0.0.1", 0))

        def asker(timeout: float) -> socket.socket:
            found = askers.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            found.settimeout(timeout)
            found.sendto(query, address)
            return found

        def ask() -> bytes:
            client = asker(5.0)
            upstream.settimeout(0.5)
            try:
                data, sender = upstream.recvfrom(2048)
            except TimeoutError:
                return client.recv(2048)[-16:]  # it was still known
            # one A record, 10.0.0.4, whatever the spelling of the name
            end = data.index(b"\0", 12) + 5
            record = struct.pack("!HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes([10, 0, 0, 4]))
            upstream.sendto(data[:2] + struct.pack("!HHHHH", 0x8580, 1, 1, 0, 0) + data[12:end] + record, sender)
            return client.recv(2048)[-16:]

        unheard = asker(0.5)
        server.config["dns64"] = dns64(upstream)
        server.configure()
        assert ask() == socket.inet_pton(socket.AF_INET6, "fd00:1:2:7777::a00:4")
        server.config["dns64"] = dns64(upstream, prefix="fd00:1:2:6464::/96")
        server.configure()
        assert ask() == socket.inet_pton(socket.AF_INET6, "fd00:1:2:6464::a00:4")
        server.config["dns64"] = None
        server.configure()
        assert server.stats()["dns64"] is None
        for client in (unheard, asker(0.5)):
            with pytest.raises(TimeoutError):
                client.recv(2048)
        server.config["dns64"] = dns64(upstream)
        server.configure()
        assert ask() == socket.inet_pton(socket.AF_INET6, "fd00:1:2:7777::a00:4")


def test_services_without_descriptors_need_a_restart(start_server: Callable[..., Server]) -> None:
    server = start_server()
    nat64(server.config)
    with pytest.raises(ValueError, match=r"nat64: needs a restart"):
        server.configure()
    server.config["nat64"] = None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.bind(("127.0.0.1", 0))
        server.config["dns64"] = dns64(upstream)
        with pytest.raises(ValueError, match=r"dns64: needs a restart"):
            server.configure()
    server.config["dns64"] = None
    server.configure()
