"""A gateway and its own client end, packets both ways."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import CLIENT, HOST, PREFIX, Client, Server, checksum, ipv6, tcp, udp, wait_for


@pytest.mark.parametrize("segments", [True, False], ids=["segments", "plain"])
def test_packets_pass_both_ways(
    start_server: Callable[..., Server], start_client: Callable[..., Client], segments: bool
) -> None:
    server = start_server()
    client = start_client(server, segments=segments)
    client.wait_up()
    up = server.wait_event("session_up")
    assert up["identity"]["subject"] == "client1"
    assert (up["tls"], up["segments"]) == ("TLSv1_3", segments)
    there = udp(CLIENT, HOST, b"there")
    client.tun.send(there)
    assert server.tuns[0].packet() == there
    wait_for(lambda: CLIENT in [e["address"] for e in server.events("session_address")], "the address")
    back = udp(HOST, CLIENT, b"back")
    server.tuns[0].send(back)
    assert client.tun.packet() == back
    [session] = server.sessions()
    assert CLIENT in session["addresses"]
    assert session["packets_in"] >= 1


def super_segment(source: str, destination: str, payload: bytes) -> bytes:
    """A TCP super-segment with the pseudo-header sum in its checksum field."""
    packet = bytearray(tcp(source, destination, 1, payload))
    length = len(packet) - 40
    pseudo = checksum(bytes(packet[8:40]) + struct.pack("!II", length, 6))
    packet[56:58] = struct.pack("!H", pseudo)
    return bytes(packet)


@pytest.mark.parametrize("segments", [True, False], ids=["segments", "plain"])
def test_super_segments_arrive_as_super_segments(
    start_server: Callable[..., Server], start_client: Callable[..., Client], segments: bool
) -> None:
    """Whole in one mode, split and merged again in the other: the host sees the same."""
    server = start_server()
    client = start_client(server, segments=segments)
    client.wait_up()
    payload = bytes(range(256)) * 200
    packet = super_segment(CLIENT, HOST, payload)
    client.tun.send_super(packet, 1220)
    got = b""
    while len(got) < len(payload):
        header, arrived = server.tuns[0].receive()
        assert (header[1] == 4 and struct.unpack("=H", header[4:6])[0] == 1220) or len(arrived) <= 1280
        got += arrived[60:]
    assert got == payload
    reply = super_segment(HOST, CLIENT, payload)
    server.tuns[0].send_super(reply, 1220)
    got = b""
    while len(got) < len(payload):
        got += client.tun.packet()[60:]
    assert got == payload
    drops = {name: count for name, count in server.stats()["gateway"].items() if name.startswith("drop")}
    assert not any(drops.values()), drops


def test_no_certificate_no_tunnel(start_server: Callable[..., Server], start_client: Callable[..., Client]) -> None:
    server = start_server()
    client = start_client(server, certificate_chain=None, private_key=None)
    assert server.wait_event("refused")["reason"] == "no_identity"
    assert wait_for(lambda: client.status()["error"], "an error at the client")
    assert server.sessions() == []


def test_unowned_destination_is_unreachable(start_server: Callable[..., Server]) -> None:
    server = start_server()
    server.tuns[0].send(udp(HOST, CLIENT, b"anybody?"))
    answer = server.tuns[0].packet()
    assert (answer[6], answer[40]) == (58, 1)


def test_other_traffic_is_dropped(start_server: Callable[..., Server], start_client: Callable[..., Client]) -> None:
    server = start_server()
    client = start_client(server)
    client.wait_up()
    client.tun.send(udp("fd00:9::1", HOST, b"spoofed"))
    client.tun.send(ipv6(CLIENT, HOST, 59, b""))
    assert server.tuns[0].packet() == ipv6(CLIENT, HOST, 59, b"")
    assert server.stats()["link"]["drops"]["foreign_source"] == 1


def test_malformed_configuration_names_the_field(start_server: Callable[..., Server]) -> None:
    server = start_server()

    def refused(text: str, change: Callable[[dict[str, Any]], None]) -> None:
        config = {**server.config, "iphttps": dict(server.config["iphttps"]), "tls": dict(server.config["tls"])}
        change(config)
        import json

        with pytest.raises(ValueError, match=text):
            server.gateway.configure(json.dumps(config))

    refused("colour", lambda config: config.update(colour=1))
    refused("prefix", lambda config: config["iphttps"].update(prefix="fd00::/59"))
    refused("tls.private_key", lambda config: config["tls"].update(private_key="garbage"))
    refused("tls.ticket_keys", lambda config: config["tls"].update(ticket_keys=["ab"]))
    server.configure()


def test_addresses_of_a_session_are_those_it_owns_now(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    """They age when there are too many, and move when the same machine comes back on another connection."""
    server = start_server(lambda config: config["iphttps"].update(max_addresses_per_session=3, idle_probe=0.1))
    identity = server.authority.issue("client1")[:2]
    client = start_client(server, identity)
    client.wait_up()

    def speak(who: Client, number: int) -> str:
        address = f"{PREFIX}::{number:x}"
        packet = udp(address, HOST, b"from %d" % number)
        who.tun.send(packet)
        assert server.tuns[0].packet() == packet
        return address

    def addresses(index: int) -> set[str]:
        return {address for address in server.sessions()[index]["addresses"] if address.startswith(PREFIX)}

    old = speak(client, 0x11)
    for number in (0x12, 0x13, 0x14):
        time.sleep(0.15)
        speak(client, number)
    assert old not in addresses(0)
    assert f"{PREFIX}::14" in addresses(0)
    # the same certificate on a second connection: the address moves, and the older session has to go
    again = start_client(server, identity, link_local="fe80::c2")
    again.wait_up()
    assert len(server.sessions()) == 2
    moved = speak(again, 0x14)
    assert server.wait_event("session_down")["reason"] == "replaced"
    # its client dials again, and comes back without what it lost
    owners = [session for session in server.sessions() if moved in session["addresses"]]
    assert len(owners) == 1
    assert not {f"{PREFIX}::12", f"{PREFIX}::13"} & {a for session in server.sessions() for a in session["addresses"]}


def test_every_drop_of_a_session_has_its_reason(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    server = start_server()
    client = start_client(server)
    client.wait_up()
    assert client.tun.quiet(0.1)
    assert server.sessions()[0]["drops"] == {"queue_full": 0, "queue_delay": 0, "unusable": 0}
    for _ in range(3):
        client.tun.send(udp("fd00:9::1", HOST, b"a source that is not of this link"))
    client.tun.send(udp(f"{PREFIX}::1", HOST, b"the server's own"))
    expected = {"queue_full": 0, "queue_delay": 0, "unusable": 0, "foreign_source": 3, "server_source": 1}
    wait_for(lambda: server.sessions()[0]["drops"] == expected, "the reasons")
    server.gateway.disconnect([server.sessions()[0]["session"]])
    assert server.wait_event("session_down")["drops"] == expected
