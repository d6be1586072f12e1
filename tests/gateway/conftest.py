"""A gateway and its clients on loopback, with socketpairs in place of TUN devices: no privileges needed."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_gateway = pytest.importorskip("portico._gateway", reason="the native module is not built")

VIRTIO = 12
T = TypeVar("T")

SERVER_NAME = "da.example.net"
PREFIX = "fd00:1:2:1000"
CLIENT = f"{PREFIX}::c1"
HOST = "fd00:1:2:1::9"


def wait_for(condition: Callable[[], T], what: str, timeout: float = 30.0) -> T:
    """Polls until `condition` gives something true."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.01)


class Authority:
    """A certificate authority for one test."""

    def __init__(self, name: str = "test") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, name: str, *, lifetime: timedelta = timedelta(days=1)) -> tuple[str, str, x509.Certificate]:
        """Chain and key as PEM, and the certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + lifetime)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode(), certificate

    def revoked(self, certificate: x509.Certificate) -> dict[str, str]:
        """The entry of a configuration's list."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(certificate.issuer.public_bytes())
        return {"issuer_sha256": digest.finalize().hex(), "serial": f"{certificate.serial_number:x}"}


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv6(source: str, destination: str, next_header: int, payload: bytes, hop_limit: int = 64) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, hop_limit) + addresses + payload


def transport(source: str, destination: str, next_header: int, segment: bytes, at: int) -> bytes:
    """A packet with its checksum, whose field is at byte `at` of the segment, filled in."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    pseudo = addresses + struct.pack("!II", len(segment), next_header)
    value = ~checksum(pseudo + segment) & 0xFFFF or 0xFFFF
    return ipv6(source, destination, next_header, segment[:at] + struct.pack("!H", value) + segment[at + 2 :])


def udp(source: str, destination: str, payload: bytes, ports: tuple[int, int] = (1000, 2000)) -> bytes:
    return transport(source, destination, 17, struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload, 6)


def tcp(source: str, destination: str, sequence: int, payload: bytes, flags: int = 0x10) -> bytes:
    header = struct.pack("!HHIIBBHHH", 1000, 2000, sequence, 1, 5 << 4, flags, 1000, 0, 0)
    return transport(source, destination, 6, header + payload, 16)


class Tun:
    """Our end of a socketpair that stands for a TUN queue; packets without and with virtio headers."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.socket = ours
        self.fd = theirs.detach()

    def send(self, packet: bytes, header: bytes = bytes(VIRTIO)) -> None:
        self.socket.send(header + packet)

    def send_super(self, packet: bytes, segment_size: int) -> None:
        """A TCP super-segment over IPv6; its checksum field must hold the pseudo-header sum."""
        self.send(packet, struct.pack("=BBHHHHH", 1, 4, 60, segment_size, 40, 16, 0))

    def receive(self, timeout: float = 5.0) -> tuple[bytes, bytes]:
        """Header and packet; discovery traffic that the tunnel makes by itself is passed over."""
        self.socket.settimeout(timeout)
        while True:
            data = self.socket.recv(1 << 17)
            header, packet = data[:VIRTIO], data[VIRTIO:]
            if not (len(packet) > 40 and packet[6] == 58 and packet[40] in (133, 134, 135, 136)):
                return header, packet

    def packet(self, timeout: float = 5.0) -> bytes:
        return self.receive(timeout)[1]

    def quiet(self, seconds: float = 0.3) -> bool:
        try:
            self.receive(seconds)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.socket.close()


@dataclass
class Server:
    """A gateway with one TUN per worker."""

    authority: Authority
    config: dict[str, Any]
    tuns: list[Tun]
    nat64: list[Tun]
    port: int
    gateway: Any
    seen: list[dict[str, Any]] = field(default_factory=list)

    def events(self, name: str) -> list[dict[str, Any]]:
        self.seen += [json.loads(text) for text in self.gateway.next_events(0.0)]
        return [event for event in self.seen if event["event"] == name]

    def wait_event(self, name: str, timeout: float = 30.0) -> dict[str, Any]:
        return wait_for(lambda: self.events(name), f"event {name}", timeout)[-1]

    def sessions(self) -> list[dict[str, Any]]:
        sessions: list[dict[str, Any]] = json.loads(self.gateway.sessions())
        return sessions

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = json.loads(self.gateway.stats())
        return stats

    def configure(self) -> None:
        self.gateway.configure(json.dumps(self.config))


@dataclass
class Client:
    tun: Tun
    tunnel: Any

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.tunnel.status())
        return status

    def wait_up(self, timeout: float = 30.0) -> None:
        wait_for(lambda: self.status()["state"] == "link_up", f"link up ({self.status()})", timeout)


def server_config(authority: Authority, workers: int = 1) -> dict[str, Any]:
    chain, key, _ = authority.issue(SERVER_NAME)
    return {
        "workers": workers,
        "iphttps": {
            "authentication": "certificates",
            "link_local": "fe80::1",
            "addresses": [f"{PREFIX}::1", f"{PREFIX}::2"],
            "prefix": f"{PREFIX}::/64",
            "routes": ["fd00:1:2::/48"],
            "route_lifetime": 1800,
            "router_lifetime": 0,
            "advertise_interval": 600,
            "max_sessions": 100,
            "max_addresses_per_session": 8,
            "max_handshakes": 64,
            "handshake_timeout": 3.0,
            "request_timeout": 3.0,
            "idle_probe": 30.0,
            "segments": True,
            "queue_bytes": 1 << 20,
        },
        "http": {"paths": ["/portico/v1/trust"], "max_body": 1024, "max_pending": 4, "timeout": 2.0},
        "tls": {
            "certificate_chain": chain,
            "private_key": key,
            "client_ca": authority.pem,
            "ticket_keys": ["ab" * 32],
            "minimum_version": "1.2",
        },
        "revoked": [],
        "nat64": None,
        "dns64": None,
    }


def listeners(count: int) -> tuple[list[int], int]:
    port, fds = 0, []
    for _ in range(count):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(4096)
        port = listener.getsockname()[1]
        fds.append(listener.detach())
    return fds, port


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def start_server(authority: Authority) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(change: Callable[[dict[str, Any]], None] = lambda config: None, workers: int = 1) -> Server:
        config = server_config(authority, workers)
        change(config)
        tuns = [Tun() for _ in range(workers)]
        nat64 = [Tun() for _ in range(workers)] if config["nat64"] else []
        fds, port = listeners(workers)
        gateway = _gateway.Gateway(
            json.dumps(config),
            tunnel_fds=[tun.fd for tun in tuns],
            nat64_fds=[tun.fd for tun in nat64],
            listener_fds=fds,
            dns_udp_fds=[],
            dns_tcp_fds=[],
        )
        server = Server(authority, config, tuns, nat64, port, gateway)
        started.append(server)
        return server

    yield start
    for server in started:
        server.gateway.close()
        for tun in server.tuns + server.nat64:
            tun.close()


@pytest.fixture
def start_client() -> Iterator[Callable[..., Client]]:
    started: list[Client] = []

    def start(
        server: Server, identity: tuple[str, str] | None = None, *, tun: Tun | None = None, **changes: Any
    ) -> Client:
        chain, key = identity or server.authority.issue("client1")[:2]
        tun = tun or Tun()
        config = {
            "url": f"https://{SERVER_NAME}:{server.port}/IPHTTPS",
            "addresses": ["127.0.0.1"],
            "trust": server.authority.pem,
            "certificate_chain": chain,
            "private_key": key,
            "proxy": None,
            "link_local": "fe80::c1",
            "segments": True,
            "connect_timeout": 5.0,
        } | changes
        client = Client(tun, _gateway.ClientTunnel(json.dumps(config), tunnel_fd=tun.fd))
        started.append(client)
        return client

    yield start
    for client in started:
        client.tunnel.close()
        client.tun.close()
