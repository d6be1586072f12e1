"""A bare-socket IP-HTTPS client that stands for a Windows computer.

Written from [MS-IPHTTPS] and RFC 4861 alone; it shares no code with the gateway. TLS is the standard library's.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import struct
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

ENDLESS = 18446744073709551615
ICMPV6, UDP = 58, 17
ALL_ROUTERS = IPv6Address("ff02::2")
ALL_NODES = IPv6Address("ff02::1")

ECHO_REQUEST, ECHO_REPLY = 128, 129
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 133, 134, 135, 136


class Refused(Exception):
    """The server ended the connection instead of opening a tunnel."""


def internet_checksum(data: bytes) -> int:
    """RFC 1071 over data of any length."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv6(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes, hop_limit: int = 64) -> bytes:
    """An IPv6 packet without extension headers."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit)
    return head + source.packed + destination.packed + payload


def icmpv6(source: IPv6Address, destination: IPv6Address, kind: int, body: bytes, hop_limit: int = 255) -> bytes:
    """An ICMPv6 message (type `kind`, code 0) with its checksum; `body` starts after the checksum."""
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = source.packed + destination.packed + struct.pack("!I3xB", len(message), ICMPV6)
    message = message[:2] + struct.pack("!H", internet_checksum(pseudo + message)) + message[4:]
    return ipv6(source, destination, ICMPV6, message, hop_limit)


@dataclass
class Advertisement:
    """What a Router Advertisement says."""

    router_lifetime: int
    prefixes: list[IPv6Network] = field(default_factory=list)
    routes: list[IPv6Network] = field(default_factory=list)
    mtu: int | None = None

    @classmethod
    def parse(cls, message: bytes) -> Advertisement:
        """From an ICMPv6 message, type included (RFC 4861 4.2, RFC 4191 2.3)."""
        found = cls(struct.unpack_from("!H", message, 6)[0])
        rest = message[16:]
        while len(rest) >= 8:
            kind, length = rest[0], rest[1] * 8
            if length == 0:
                raise ValueError("an option of length zero")
            if kind == 3:
                found.prefixes.append(IPv6Network((rest[16:32], rest[2])))
            elif kind == 5:
                found.mtu = struct.unpack_from("!I", rest, 4)[0]
            elif kind == 24:
                found.routes.append(IPv6Network((rest[8:length].ljust(16, b"\0"), rest[2])))
            rest = rest[length:]
        return found


class Tunnel:
    """One IP-HTTPS connection that is up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.link_local = IPv6Address(b"\xfe\x80" + bytes(6) + b"\0" + secrets.token_bytes(7))
        self.address: IPv6Address | None = None

    @classmethod
    async def open(
        cls,
        host: str,
        context: ssl.SSLContext,
        *,
        port: int = 443,
        name: str = "da.example.net",
        path: str = "/IPHTTPS",
    ) -> Tunnel:
        """Connects and posts; returns when the server has answered 200.

        Raises:
            Refused: it closed the connection, refused the certificate or answered something else.
        """
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
            request = f"POST {path} HTTP/1.1\r\nContent-Length: {ENDLESS}\r\nHost: {name}\r\n\r\n"
            writer.write(request.encode())
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        status, *lines = head.decode("latin-1").split("\r\n")
        if not status.startswith("HTTP/1.1 200"):
            writer.close()
            raise Refused(status)
        headers = {line.partition(":")[0].lower() for line in lines if line}
        if "server" not in headers or "date" not in headers or headers & {"content-length", "transfer-encoding"}:
            raise ValueError(f"a response that [MS-IPHTTPS] does not allow: {head!r}")
        return cls(reader, writer)

    def send(self, *packets: bytes) -> None:
        """Writes packets back to back, as the stream has them."""
        self.writer.write(b"".join(packets))

    async def receive(self) -> bytes:
        """The next packet.

        Raises:
            asyncio.IncompleteReadError: the server closed the connection.
        """
        head = await self.reader.readexactly(40)
        if head[0] >> 4 != 6:
            raise ValueError(f"no IPv6 packet: {head.hex()}")
        return head + await self.reader.readexactly(struct.unpack_from("!H", head, 4)[0])

    async def configure(self) -> Advertisement:
        """Solicits a router and takes an address out of the advertised prefix."""
        self.send(icmpv6(self.link_local, ALL_ROUTERS, ROUTER_SOLICITATION, bytes(4)))
        while True:
            packet = await self.receive()
            if packet[6] == ICMPV6 and packet[40] == ROUTER_ADVERTISEMENT:
                advertisement = Advertisement.parse(packet[40:])
                prefix = advertisement.prefixes[0]
                self.address = prefix[secrets.randbits(62) | 1 << 62]
                # DAD, as RFC 4862 5.4.2 has it: nobody objects to a random address
                group = IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + self.address.packed[13:])
                unspecified = IPv6Address("::")
                solicitation = bytes(4) + self.address.packed
                self.send(icmpv6(unspecified, group, NEIGHBOUR_SOLICITATION, solicitation))
                return advertisement
            self._answer(packet)

    async def ping(self, destination: IPv6Address, data: bytes = b"portico", number: int = 1) -> bytes:
        """Sends an echo request through the tunnel and returns the reply's data."""
        if self.address is None:
            raise ValueError("configure first")
        self.send(icmpv6(self.address, destination, ECHO_REQUEST, struct.pack("!HH", 7, number) + data, hop_limit=64))
        while True:
            packet = await self.receive()
            source = IPv6Address(packet[8:24])
            if packet[6] == ICMPV6 and packet[40] == ECHO_REPLY and source == destination:
                if struct.unpack_from("!H", packet, 46)[0] == number:
                    return packet[48:]
                continue
            self._answer(packet)

    async def closed(self) -> None:
        """Waits until the server closes, answering neighbours meanwhile."""
        try:
            while True:
                self._answer(await self.receive())
        except (asyncio.IncompleteReadError, OSError):
            return

    def close(self) -> None:
        self.writer.close()

    def _answer(self, packet: bytes) -> None:
        """Neighbour solicitations for our addresses are answered, without link-layer options."""
        if packet[6] != ICMPV6 or packet[40] != NEIGHBOUR_SOLICITATION:
            return
        target = IPv6Address(packet[48:64])
        source = IPv6Address(packet[8:24])
        if target in (self.address, self.link_local) and source != IPv6Address("::"):
            self.send(icmpv6(target, source, NEIGHBOUR_ADVERTISEMENT, struct.pack("!I", 0x60000000) + target.packed))


def tls(trust: str | None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """A client's TLS settings from PEM files; without `trust` the server is believed whoever it is."""
    context = ssl.create_default_context(cafile=trust)
    if trust is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
