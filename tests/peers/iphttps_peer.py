"""A bare-socket IP-HTTPS client with every step in the hands of the test: `ssl` and `socket`, nothing else.

It stands for a Windows computer (and for a badly behaved one) and is written from [MS-IPHTTPS], RFC 4861 and RFC 4862
alone; it shares no code with the gateway. Blocking calls with timeouts; one object per connection.

    peer = Peer.connect("203.0.113.11", context=tls("trust.pem", "client.pem", "client.key"))
    peer.open()
    advertisement = peer.configure()
    assert peer.ping(IPv6Address("fd7c:1a2b:3c4d:1::6"))
"""

from __future__ import annotations

import base64
import ctypes
import os
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

ENDLESS = 2**64 - 1
MTU = 1280

TCP, UDP, ICMPV6 = 6, 17, 58
PACKET_TOO_BIG, ECHO_REQUEST, ECHO_REPLY = 2, 128, 129
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
LISTENER_REPORT = 143

UNSPECIFIED = IPv6Address("::")
ALL_NODES = IPv6Address("ff02::1")
ALL_ROUTERS = IPv6Address("ff02::2")
LISTENERS = IPv6Address("ff02::16")

CLONE_NEWNET = 0x40000000


class Refused(Exception):
    """The other end closed the connection or answered with something else than 200."""


class Silence(Exception):
    """Nothing that was waited for came in time."""


# --- packets


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _pseudo(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes) -> bytes:
    return source.packed + destination.packed + struct.pack("!II", len(payload), protocol) + payload


def ipv6(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes, hop_limit: int = 64) -> bytes:
    """An IPv6 packet without extension headers of its own."""
    head = struct.pack("!IHBB", 0x60000000, len(payload), protocol, hop_limit)
    return head + source.packed + destination.packed + payload


def icmpv6(
    source: IPv6Address, destination: IPv6Address, kind: int, body: bytes, *, hop_limit: int = 255, code: int = 0
) -> bytes:
    """An ICMPv6 packet with a right checksum; `body` is what follows the checksum."""
    head = struct.pack("!BBH", kind, code, 0)
    value = checksum(_pseudo(source, destination, ICMPV6, head + body))
    return ipv6(source, destination, ICMPV6, struct.pack("!BBH", kind, code, value) + body, hop_limit)


def udp(source: IPv6Address, destination: IPv6Address, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram from port `ports[0]` to `ports[1]`."""
    head = struct.pack("!HHHH", *ports, 8 + len(data), 0)
    value = checksum(_pseudo(source, destination, UDP, head + data)) or 0xFFFF
    return ipv6(source, destination, UDP, head[:6] + struct.pack("!H", value) + data)


def echo_request(source: IPv6Address, destination: IPv6Address, identifier: int, sequence: int, data: bytes) -> bytes:
    """An ICMPv6 echo request."""
    return icmpv6(source, destination, ECHO_REQUEST, struct.pack("!HH", identifier, sequence) + data, hop_limit=64)


def solicited_node(target: IPv6Address) -> IPv6Address:
    """The group that hears solicitations for an address (RFC 4291 2.7.1)."""
    return IPv6Address(bytes.fromhex("ff0200000000000000000001ff") + target.packed[13:])


def router_solicitation(source: IPv6Address) -> bytes:
    return icmpv6(source, ALL_ROUTERS, ROUTER_SOLICITATION, bytes(4))


def neighbour_solicitation(source: IPv6Address, destination: IPv6Address, target: IPv6Address) -> bytes:
    """Without options, since the link has no link-layer addresses. A source of `::` makes it a duplicate probe."""
    return icmpv6(source, destination, NEIGHBOUR_SOLICITATION, bytes(4) + target.packed)


def duplicate_probe(target: IPv6Address) -> bytes:
    """Duplicate address detection (RFC 4862 5.4.2)."""
    return neighbour_solicitation(UNSPECIFIED, solicited_node(target), target)


def neighbour_advertisement(source: IPv6Address, destination: IPv6Address, target: IPv6Address, flags: int) -> bytes:
    """`flags`: 0x80 router, 0x40 solicited, 0x20 override."""
    return icmpv6(source, destination, NEIGHBOUR_ADVERTISEMENT, bytes([flags, 0, 0, 0]) + target.packed)


def listener_report(source: IPv6Address, group: IPv6Address) -> bytes:
    """An MLDv2 report of one group behind a router alert (RFC 3810 5.2)."""
    message = struct.pack("!BBHHH", LISTENER_REPORT, 0, 0, 0, 1) + bytes([4, 0, 0, 0]) + group.packed
    value = checksum(_pseudo(source, LISTENERS, ICMPV6, message))
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return ipv6(source, LISTENERS, 0, bytes([ICMPV6, 0, 5, 2, 0, 0, 1, 0]) + message, hop_limit=1)


@dataclass(frozen=True)
class Packet:
    """A received IPv6 packet, looked at without extension headers."""

    data: bytes

    @property
    def source(self) -> IPv6Address:
        return IPv6Address(self.data[8:24])

    @property
    def destination(self) -> IPv6Address:
        return IPv6Address(self.data[24:40])

    @property
    def protocol(self) -> int:
        return self.data[6]

    @property
    def hop_limit(self) -> int:
        return self.data[7]

    @property
    def payload(self) -> bytes:
        return self.data[40:]

    @property
    def icmp_type(self) -> int | None:
        return self.payload[0] if self.protocol == ICMPV6 and self.payload else None

    @property
    def target(self) -> IPv6Address:
        """Of a neighbour solicitation or advertisement."""
        return IPv6Address(self.payload[8:24])

    @property
    def options(self) -> bytes:
        """Of a neighbour solicitation or advertisement."""
        return self.payload[24:]

    def checksum_is_right(self) -> bool:
        return checksum(_pseudo(self.source, self.destination, self.protocol, self.payload)) == 0


@dataclass
class Advertisement:
    """What a Router Advertisement says (RFC 4861 4.2, RFC 4191 2.3)."""

    packet: Packet
    router_lifetime: int
    flags: int
    prefixes: list[tuple[IPv6Network, int]] = field(default_factory=list)
    """With the flags: 0x80 on-link, 0x40 autonomous."""
    routes: list[tuple[IPv6Network, int]] = field(default_factory=list)
    """With the lifetime in seconds."""
    mtu: int | None = None
    other_options: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, packet: Packet) -> Advertisement:
        message = packet.payload
        found = cls(packet, struct.unpack_from("!H", message, 6)[0], message[5])
        rest = message[16:]
        while rest:
            kind, length = rest[0], rest[1] * 8
            if length == 0 or length > len(rest):
                raise ValueError(f"malformed option in {message.hex()}")
            option, rest = rest[:length], rest[length:]
            if kind == 3:
                found.prefixes.append((IPv6Network((option[16:32], option[2])), option[3]))
            elif kind == 24:
                prefix = IPv6Network((option[8:].ljust(16, b"\0"), option[2]))
                found.routes.append((prefix, struct.unpack_from("!I", option, 4)[0]))
            elif kind == 5:
                found.mtu = struct.unpack_from("!I", option, 4)[0]
            else:
                found.other_options.append(kind)
        return found


# --- connections


def tls(
    trust: str | Path | None, certificate: str | Path | None = None, key: str | Path | None = None
) -> ssl.SSLContext:
    """A client's TLS settings from PEM files; without `trust` the server is believed whoever it is."""
    context = ssl.create_default_context(cafile=str(trust) if trust else None)
    if trust is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def in_namespace(namespace: str | Path | None, action: Callable[[], T]) -> T:
    """Runs `action` in a network namespace (a path like /proc/PID/ns/net, or a name of `ip netns`); sockets it makes
    stay there. A thread of its own enters, so the caller stays where it is.

    Raises:
        OSError: the namespace does not exist or may not be entered.
    """
    if namespace is None:
        return action()
    path = Path(namespace) if "/" in str(namespace) else Path("/run/netns") / namespace
    results: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), str(path))
            finally:
                os.close(descriptor)
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter, name=f"in {path}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@dataclass
class Response:
    status: int
    line: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Peer:
    """One connection. The methods are in the order of its life."""

    def __init__(self, stream: socket.socket, name: str = "da.example.net", timeout: float = 10.0) -> None:
        self.stream, self.name, self.timeout = stream, name, timeout
        self.link_local = IPv6Address(b"\xfe\x80" + bytes(7) + secrets.token_bytes(7))
        self.addresses: list[IPv6Address] = []
        self.answers_solicitations = True
        """Off: the peer plays dead to neighbour discovery while its connection stays."""
        self._buffer = b""

    @classmethod
    def connect(
        cls,
        address: str,
        port: int = 443,
        *,
        context: ssl.SSLContext | None,
        name: str = "da.example.net",
        namespace: str | Path | None = None,
        proxy: tuple[str, int] | None = None,
        proxy_credentials: tuple[str, str] | None = None,
        timeout: float = 10.0,
    ) -> Self:
        """TCP, CONNECT when there is a proxy, then TLS (none when `context` is None).

        Raises:
            Refused: TCP, the proxy or TLS said no.
        """
        try:
            stream = in_namespace(namespace, lambda: socket.create_connection(proxy or (address, port), timeout))
        except OSError as error:
            raise Refused(f"{address} port {port}: {error}") from error
        peer = cls(stream, name, timeout)
        try:
            if proxy:
                peer._connect_through_proxy(f"{address}:{port}", proxy_credentials)
            if context is not None:
                peer.stream = context.wrap_socket(stream, server_hostname=name)
        except (OSError, Refused) as error:
            stream.close()
            raise Refused(str(error)) from error
        return peer

    def _connect_through_proxy(self, authority: str, credentials: tuple[str, str] | None) -> None:
        head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
        if credentials:
            head += f"Proxy-Authorization: Basic {base64.b64encode(':'.join(credentials).encode()).decode()}\r\n"
        self.send_raw(head.encode() + b"\r\n")
        response = self.response()
        if response.status != 200:
            raise Refused(f"the proxy answered: {response.line}")

    # --- HTTP

    def request(
        self,
        path: str = "/IPHTTPS",
        *,
        content_length: int | None = ENDLESS,
        headers: Iterable[str] = (),
        version: str = "HTTP/1.1",
        piece: int | None = None,
        body: bytes = b"",
    ) -> None:
        """Sends the POST in the field order of [MS-IPHTTPS] 4.1, `piece` bytes per TLS record when given."""
        lines = [f"POST {path} {version}"]
        if content_length is not None:
            lines.append(f"Content-Length: {content_length}")
        lines += [f"Host: {self.name}", *headers]
        data = "\r\n".join([*lines, "", ""]).encode() + body
        size = piece or len(data)
        for start in range(0, len(data), size):
            self.send_raw(data[start : start + size])

    def response(self) -> Response:
        """Reads a response head; bytes behind it stay for `receive`.

        Raises:
            Refused: the connection ended before.
            Silence: the head did not come in time.
        """
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill(self.timeout):
                raise Refused("the connection was closed without an answer")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        pairs = [(name, value.strip()) for name, _, value in (entry.partition(":") for entry in fields)]
        return Response(int(line.split()[1]), line, pairs)

    def open(self) -> Response:
        """Sends the request and checks that the answer is exactly what [MS-IPHTTPS] 3.2.5.1 prescribes.

        Raises:
            Refused: it is not 200.
        """
        self.request()
        response = self.response()
        if response.status != 200:
            raise Refused(response.line)
        assert response.header("Server") == "Microsoft-HTTPAPI/2.0", response
        assert response.header("Date"), response
        assert response.header("Content-Length") is None, response
        assert response.header("Transfer-Encoding") is None, response
        return response

    # --- the stream

    def send_raw(self, data: bytes) -> None:
        """Writes bytes as one TLS record (up to 16 KiB)."""
        self.stream.settimeout(self.timeout)
        self.stream.sendall(data)

    def send(self, *packets: bytes) -> None:
        """Writes packets back to back in one record."""
        self.send_raw(b"".join(packets))

    def receive(self, timeout: float | None = None) -> Packet:
        """The next packet, whatever it is; neighbour solicitations for this peer are answered on the way.

        Raises:
            Refused: the connection was closed.
            Silence: nothing came in time.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while (length := self._packet_length()) is None or len(self._buffer) < length:
            if not self._fill(deadline - time.monotonic()):
                raise Refused("the connection was closed")
        packet, self._buffer = Packet(self._buffer[:length]), self._buffer[length:]
        self._answer(packet)
        return packet

    def receive_where(self, wanted: Callable[[Packet], bool], timeout: float | None = None) -> Packet:
        """The next packet for which `wanted` is true; others are dropped.

        Raises:
            Refused, Silence: as `receive`.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            packet = self.receive(deadline - time.monotonic())
            if wanted(packet):
                return packet

    def everything(self, seconds: float) -> list[Packet]:
        """All packets that arrive within that time."""
        packets = []
        deadline = time.monotonic() + seconds
        try:
            while True:
                packets.append(self.receive(deadline - time.monotonic()))
        except Silence:
            return packets

    def wait_closed(self, timeout: float | None = None) -> None:
        """Waits until the server closes the connection.

        Raises:
            Silence: it did not.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        try:
            while True:
                self.receive(deadline - time.monotonic())
        except Refused:
            return

    def _packet_length(self) -> int | None:
        if self._buffer and self._buffer[0] >> 4 != 6:
            raise AssertionError(f"not an IPv6 packet: {self._buffer[:64].hex()}")
        if len(self._buffer) < 40:
            return None
        length: int = struct.unpack_from("!H", self._buffer, 4)[0]
        return 40 + length

    def _fill(self, timeout: float) -> bool:
        """Reads some bytes. False at the end of the stream, however it ends."""
        if timeout <= 0:
            raise Silence
        self.stream.settimeout(timeout)
        try:
            data = self.stream.recv(65536)
        except TimeoutError as error:
            raise Silence from error
        except (ssl.SSLError, ConnectionError):
            return False
        self._buffer += data
        return bool(data)

    def _answer(self, packet: Packet) -> None:
        if packet.icmp_type != NEIGHBOUR_SOLICITATION or not self.answers_solicitations:
            return
        target, source = packet.target, packet.source
        if target == self.link_local or target in self.addresses:
            if source == UNSPECIFIED:
                self.send(neighbour_advertisement(target, ALL_NODES, target, 0x20))
            else:
                self.send(neighbour_advertisement(target, source, target, 0x60))

    # --- what a computer does on the link

    def solicit_router(self) -> Advertisement:
        """RS from the link-local address; the RA that answers it."""
        self.send(router_solicitation(self.link_local))
        return Advertisement.parse(self.receive_where(lambda packet: packet.icmp_type == ROUTER_ADVERTISEMENT))

    def probe(self, target: IPv6Address, wait: float = 1.0) -> Packet | None:
        """Duplicate address detection: the advertisement that objects within `wait` seconds, or None."""
        self.send(duplicate_probe(target))
        try:
            return self.receive_where(
                lambda packet: packet.icmp_type == NEIGHBOUR_ADVERTISEMENT and packet.target == target, wait
            )
        except Silence:
            return None

    def configure(self, *, wait: float = 0.2) -> Advertisement:
        """Solicits a router, makes an address of the prefix and probes it; it ends up in `addresses`.

        Raises:
            AssertionError: somebody objected to a random address.
        """
        advertisement = self.solicit_router()
        (prefix, _), *_ = advertisement.prefixes
        address = prefix[secrets.randbits(62) | 1 << 62]
        objection = self.probe(address, wait)
        assert objection is None, objection
        self.addresses.append(address)
        return advertisement

    @property
    def address(self) -> IPv6Address:
        return self.addresses[0]

    def ping(self, destination: IPv6Address, data: bytes = b"portico", timeout: float | None = None) -> Packet:
        """Sends an echo request; its reply.

        Raises:
            Refused, Silence: as `receive`.
        """
        identifier, sequence = secrets.randbits(16), 1
        self.send(echo_request(self.address, destination, identifier, sequence, data))
        wanted = struct.pack("!HH", identifier, sequence) + data
        return self.receive_where(
            lambda packet: (
                packet.icmp_type == ECHO_REPLY and packet.source == destination and packet.payload[4:] == wanted
            ),
            timeout,
        )

    # --- the end

    def close(self) -> None:
        self.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
