"""TLS as other implementations speak it: both versions, key updates, tickets that any server opens."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import CLIENT, HOST, PREFIX, Server, ipv6, udp, wait_for

POST = b"POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: da.example.net\r\n\r\n"


@pytest.fixture
def context(authority: object, tmp_path: Path) -> ssl.SSLContext:
    chain, key, _ = authority.issue("client1")  # type: ignore[attr-defined]
    (tmp_path / "client.pem").write_text(chain + key)
    (tmp_path / "ca.pem").write_text(authority.pem)  # type: ignore[attr-defined]
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "client.pem")
    return context


def dial(server: Server, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """A tunnel that is up."""
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.settimeout(30.0)
    peer = context.wrap_socket(raw, server_hostname="da.example.net", session=session)
    peer.sendall(POST)
    assert peer.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
    return peer


def packets(peer: ssl.SSLSocket, count: int) -> list[bytes]:
    """Reads packets off the stream; discovery traffic is passed over."""
    data = b""
    found: list[bytes] = []
    while len(found) < count:
        data += peer.recv(65536)
        while len(data) >= 40 and len(data) >= (length := 40 + int.from_bytes(data[4:6])):
            if data[6] != 58:
                found.append(data[:length])
            data = data[length:]
    return found


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_carry_packets(
    start_server: Callable[..., Server], context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    server = start_server()
    context.maximum_version = version
    with dial(server, context) as peer:
        assert server.wait_event("session_up")["tls"] == version.name
        assert peer.version() == version.name.replace("_", ".")
        there = [udp(CLIENT, HOST, os.urandom(1200), (port, 7)) for port in range(1, 101)]
        peer.sendall(b"".join(there))
        assert [server.tuns[0].packet() for _ in there] == there
        back = [udp(HOST, CLIENT, os.urandom(1200), (port, 7)) for port in range(1, 101)]
        for packet in back:
            server.tuns[0].send(packet)
        assert packets(peer, 100) == back


def test_a_floor_of_1_3_refuses_1_2(start_server: Callable[..., Server], context: ssl.SSLContext) -> None:
    server = start_server(lambda config: config["tls"].update(minimum_version="1.3"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        dial(server, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("ciphers", "expected"),
    [
        (None, "AES128|AES_128"),
        (["aes-256-gcm", "aes-128-gcm"], "AES256|AES_256"),
        (["chacha20-poly1305"], "CHACHA20"),
    ],
)
def test_the_servers_order_of_ciphers_counts(
    start_server: Callable[..., Server],
    context: ssl.SSLContext,
    version: ssl.TLSVersion,
    ciphers: list[str] | None,
    expected: str,
) -> None:
    """This client prefers AES-256, as OpenSSL does."""
    context.minimum_version = context.maximum_version = version
    server = start_server(lambda config: config["tls"].update({} if ciphers is None else {"ciphers": ciphers}))
    with dial(server, context) as peer:
        found = peer.cipher()
        assert found is not None and re.search(expected, found[0])
        packet = udp(f"{PREFIX}::77", HOST, b"sealed")
        peer.sendall(packet)
        assert server.tuns[0].packet() == packet


def test_a_client_without_any_of_the_ciphers_is_refused(
    start_server: Callable[..., Server], context: ssl.SSLContext
) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AES128")
    server = start_server(lambda config: config["tls"].update(ciphers=["aes-256-gcm"]))
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        dial(server, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_another_server_with_the_same_keys_resumes(
    start_server: Callable[..., Server], context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    """A ticket is good at every server that has its key, and nowhere else."""
    context.maximum_version = version
    first, second = start_server(), start_server()
    stranger = start_server(lambda config: config["tls"].update(ticket_keys=["ef" * 32]))
    with dial(first, context) as peer:
        session = peer.session
    assert session is not None
    for server, resumed in ((second, True), (stranger, False), (first, True)):
        with dial(server, context, session) as peer:
            assert peer.session_reused is resumed
            event = server.wait_event("session_up")
            assert (event["resumed"], event["identity"]["subject"]) == (resumed, "client1")
            packet = udp(f"{PREFIX}::77", HOST, b"after resumption")
            peer.sendall(packet)
            assert server.tuns[0].packet() == packet


def test_ticket_keys_rotate_while_it_serves(start_server: Callable[..., Server], context: ssl.SSLContext) -> None:
    server = start_server()
    with dial(server, context) as peer:
        old = peer.session

        server.config["tls"]["ticket_keys"] = ["cd" * 32, "ab" * 32]
        server.configure()
        with dial(server, context, old) as other:
            assert other.session_reused
            new = other.session
        server.config["tls"]["ticket_keys"] = ["cd" * 32]
        server.configure()
        with dial(server, context, old) as other:
            assert not other.session_reused
        with dial(server, context, new) as other:
            assert other.session_reused
        packet = udp(CLIENT, HOST, b"the first session is not disturbed")
        peer.sendall(packet)
        assert server.tuns[0].packet() == packet


def test_keys_are_updated_in_both_directions(
    start_server: Callable[..., Server], context: ssl.SSLContext, tmp_path: Path
) -> None:
    """TLS 1.3 KeyUpdate (RFC 8446 section 4.6.3), asked for by OpenSSL: `K` wants the peer to update as well."""
    server = start_server()
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "da.example.net"]
    command += ["-cert", f"{tmp_path}/client.pem", "-key", f"{tmp_path}/client.pem", "-CAfile", f"{tmp_path}/ca.pem"]
    log = tmp_path / "log"
    with log.open("wb") as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out) as peer:
        assert peer.stdin is not None

        def say(data: bytes) -> None:
            peer.stdin.write(data)  # type: ignore[union-attr]
            peer.stdin.flush()  # type: ignore[union-attr]
            # s_client takes the first byte of each read for a command
            time.sleep(0.1)

        try:
            wait_for(lambda: b"Verify return code" in log.read_bytes(), "the handshake")
            say(POST)
            wait_for(lambda: b"HTTP/1.1 200 OK" in log.read_bytes(), "the tunnel")
            for round_ in range(4):
                for key in (b"k\n", b"K\n", b"K\n"):
                    say(key)
                packet = udp(CLIENT, HOST, b"round %d there" % round_)
                say(packet)
                assert server.tuns[0].packet() == packet
                answer = b"round %d and back" % round_
                server.tuns[0].send(udp(HOST, CLIENT, answer))
                wait_for(lambda answer=answer: answer in log.read_bytes(), "the answer")  # type: ignore[misc]
            assert log.read_bytes().count(b"KEYUPDATE") == 12
            assert [session["tls"] for session in server.sessions()] == ["TLSv1_3"]
        finally:
            peer.kill()


def test_early_packets_in_the_request_s_record_are_kept(
    start_server: Callable[..., Server], context: ssl.SSLContext
) -> None:
    server = start_server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    packet = ipv6(CLIENT, HOST, 59, b"")
    with context.wrap_socket(
        socket.create_connection(("127.0.0.1", server.port)), server_hostname="da.example.net"
    ) as peer:
        peer.sendall(POST + packet)
        assert server.tuns[0].packet() == packet
