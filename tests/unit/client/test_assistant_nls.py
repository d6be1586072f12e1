"""The location server is asked on the physical network, and only its own valid answer proves anything."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from portico.client.assistant import nls
from portico.client.assistant.names import NotFoundInDns, Server, addresses_of, ask
from portico.client.assistant.nls import Answer, Ports
from portico.client.assistant.revoked import RevocationList, parse
from portico.client.assistant.surroundings import Card, Surroundings
from portico.errors import InvalidInput
from portico.location.reach import NotReached, Page, get, trusting
from portico.settings.addresses import Address

NAME = "localhost.corp.example.net"
NOW = datetime.now(UTC)
AROUND = Surroundings((Card("eth0", 2, ("10.0.0.70/24",), ("10.0.0.1",)),), ("10.0.0.53",))


class Authority:
    """A CA, with the certificates and lists it signs."""

    def __init__(self, name: str = "CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._build(self.name, self.key.public_key(), 1, ca=True, until=NOW + timedelta(days=9))

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, *, ca: bool, until: datetime
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(NOW - timedelta(days=9))
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def serve(self, directory: Path, serial: int = 7, *, until: datetime = NOW + timedelta(days=9)) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
        certificate = self._build(subject, key.public_key(), serial, ca=False, until=until)
        path = directory / f"{serial}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def revoke(self, *serials: int, number: int = 1) -> str:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(NOW).next_update(NOW)
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@asynccontextmanager
async def serving(context: ssl.SSLContext, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def asked(
    context: ssl.SSLContext, trust: str, *, name: str = NAME, page: bytes = b"", revoked: RevocationList | None = None
) -> Answer:
    """What comes of a question to a real server."""

    async def way(_address: str, _around: Surroundings) -> str:
        return ""

    async def resolve(_name: str, _servers: list[Server]) -> tuple[Address, ...]:
        return (ip_address("127.0.0.1"),)

    async def fetch(url: str, address: Address, context: ssl.SSLContext, device: str) -> Page:
        return await get(url, address, context, timeout=20.0, device=device)

    async def run() -> Answer:
        async with serving(context, page or b"HTTP/1.1 200 OK\r\n\r\n") as port:
            ports = Ports(way, resolve, fetch)
            return await nls.ask(f"https://{name}:{port}/", AROUND, trusting(trust), revoked, ports)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_a_valid_answer_proves_inside(authority: Authority, tmp_path: Path) -> None:
    found = asked(authority.serve(tmp_path), authority.pem)
    assert found.proven, found.detail


@pytest.mark.parametrize("status", [302, 403, 404, 500, 204])
def test_nothing_but_200_counts(authority: Authority, tmp_path: Path, status: int) -> None:
    page = f"HTTP/1.1 {status} Sorry\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".encode()
    found = asked(authority.serve(tmp_path), authority.pem, page=page)
    assert (found.proven, found.known, found.foreign) == (False, True, True)
    assert str(status) in found.detail


def test_a_certificate_of_somebody_else_counts_for_nothing(authority: Authority, tmp_path: Path) -> None:
    found = asked(Authority("Other").serve(tmp_path), authority.pem)
    assert (found.proven, found.foreign) == (False, True)
    assert "certificate is refused" in found.detail


def test_nor_does_one_for_another_name_or_one_that_has_ended(authority: Authority, tmp_path: Path) -> None:
    assert not asked(authority.serve(tmp_path), authority.pem, name="other.corp.example.net").proven
    ended = authority.serve(tmp_path, 8, until=NOW - timedelta(days=1))
    found = asked(ended, authority.pem)
    assert (found.proven, found.foreign) == (False, True)


def test_nor_does_one_that_is_revoked(authority: Authority, tmp_path: Path) -> None:
    context = authority.serve(tmp_path)
    assert asked(context, authority.pem, revoked=parse(authority.revoke(3), authority.pem)).proven
    found = asked(context, authority.pem, revoked=parse(authority.revoke(3, 7), authority.pem))
    assert (found.proven, found.detail) == (False, "127.0.0.1: its certificate is revoked")


def test_a_revocation_list_counts_when_it_is_signed_by_whom_this_computer_trusts(authority: Authority) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(Authority("Other").revoke(7), authority.pem)
    assert refused.value.code == "CRL_FOREIGN"
    with pytest.raises(InvalidInput) as refused:
        parse(Authority("CA").revoke(7), authority.pem)  # the same name, another key
    assert refused.value.code == "CRL_FOREIGN"
    for damaged in ("", "nonsense", authority.revoke(7)[:200]):
        with pytest.raises(InvalidInput) as refused:
            parse(damaged, authority.pem)
        assert refused.value.code == "CRL_DAMAGED"


def decide(
    ways: dict[str, str | None],
    addresses: tuple[str, ...] = ("10.0.0.2",),
    fetch: Callable[[str, str], Page] = lambda _address, _device: Page(200),
) -> tuple[Answer, list[tuple[str, str]], list[Server]]:
    """The answer, who was fetched on which card, and which DNS servers were asked."""
    fetched: list[tuple[str, str]] = []
    servers: list[Server] = []

    async def way(address: str, _around: Surroundings) -> str | None:
        return ways.get(address)

    async def resolve(_name: str, asked: list[Server]) -> tuple[Address, ...]:
        servers.extend(asked)
        if not addresses:
            raise NotFoundInDns("no such name", answered=True)
        return tuple(ip_address(address) for address in addresses)

    async def get_page(_url: str, address: Address, _context: ssl.SSLContext, device: str) -> Page:
        fetched.append((str(address), device))
        return fetch(str(address), device)

    context = ssl.create_default_context()
    answer = asyncio.run(nls.ask(f"https://{NAME}/", AROUND, context, None, Ports(way, resolve, get_page)))
    return answer, fetched, servers


def test_every_packet_leaves_on_a_card_that_is_not_the_tunnel() -> None:
    answer, fetched, servers = decide({"10.0.0.53": "eth0", "10.0.0.2": "wlan0"})
    assert answer.proven
    assert (servers, fetched) == ([Server("10.0.0.53", "eth0")], [("10.0.0.2", "wlan0")])


def test_a_location_server_that_only_the_tunnel_reaches_proves_nothing() -> None:
    answer, fetched, _ = decide({"10.0.0.53": "eth0", "10.0.0.2": None})
    assert (answer.proven, fetched) == (False, [])


def test_a_name_that_only_resolvers_behind_the_tunnel_know_is_not_asked_for() -> None:
    answer, fetched, servers = decide({"10.0.0.53": None, "10.0.0.2": "eth0"})
    assert (answer.proven, fetched, servers) == (False, [], [])
    assert "without the tunnel" in answer.detail


def test_one_address_that_answers_is_enough_and_the_most_telling_failure_is_told() -> None:
    def fetch(address: str, _device: str) -> Page:
        if address == "10.0.0.2":
            raise NotReached("its certificate is refused", foreign=True)
        if address == "10.0.0.3":
            raise NotReached("no answer")
        return Page(200)

    ways: dict[str, str | None] = {"10.0.0.53": "eth0", **{f"10.0.0.{last}": "eth0" for last in (2, 3, 4)}}
    assert decide(ways, ("10.0.0.2", "10.0.0.3", "10.0.0.4"), fetch)[0].proven
    failed = decide(ways, ("fd00::2", "10.0.0.3", "10.0.0.2"), fetch)[0]
    assert (failed.proven, failed.foreign, failed.detail) == (False, True, "10.0.0.2: its certificate is refused")


def test_no_such_name_is_what_outside_looks_like() -> None:
    answer, _, _ = decide({"10.0.0.53": "eth0"}, ())
    assert (answer.proven, answer.known) == (False, False)


async def respond(question: dns.message.Message, records: dict[str, list[str]], code: int = 0) -> dns.message.Message:
    answer = dns.message.make_response(question)
    answer.set_rcode(dns.rcode.Rcode(code))
    (asked,) = question.question
    found = records.get(dns.rdatatype.to_text(asked.rdtype), [])
    if found:
        answer.answer = [dns.rrset.from_text_list(asked.name, 60, "IN", dns.rdatatype.to_text(asked.rdtype), found)]
    return answer


def test_all_dns_servers_are_asked_at_once_and_the_first_that_knows_the_name_counts() -> None:
    async def send(server: Server, question: dns.message.Message) -> dns.message.Message:
        if server.address == "10.0.0.1":
            return await respond(question, {}, dns.rcode.NXDOMAIN)
        if server.address == "10.0.0.2":
            raise TimeoutError
        return await respond(question, {"A": ["10.0.0.4"], "AAAA": ["fd00::4"]})

    servers = [Server(f"10.0.0.{last}") for last in (1, 2, 3)]
    found = asyncio.run(addresses_of(NAME, servers, send=send))
    assert {str(address) for address in found} == {"10.0.0.4", "fd00::4"}
    for few, why, answered in ((1, "knows no such name", True), (2, "knows no such name", True)):
        with pytest.raises(NotFoundInDns, match=why) as refused:
            asyncio.run(addresses_of(NAME, servers[:few], send=send))
        assert refused.value.answered is answered
    with pytest.raises(NotFoundInDns, match="does not answer") as refused:
        asyncio.run(addresses_of(NAME, servers[1:2], send=send))
    assert not refused.value.answered
    with pytest.raises(NotFoundInDns, match="has no DNS server"):
        asyncio.run(addresses_of(NAME, []))


def test_a_question_goes_out_on_a_socket_and_forged_answers_are_passed_over() -> None:
    class Names(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
            question = dns.message.from_wire(data)
            forged = dns.message.make_response(question)
            forged.id ^= 1
            answer = dns.message.make_response(question)
            answer.answer = [dns.rrset.from_text(question.question[0].name, 1, "IN", "A", "10.0.0.9")]
            for message in (b"?", forged.to_wire(), answer.to_wire()):
                self.transport.sendto(message, peer)  # type: ignore[attr-defined]

    async def run() -> tuple[Address, ...]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
        try:
            port = transport.get_extra_info("sockname")[1]
            return await addresses_of(NAME, [Server(f"127.0.0.1:{port}")], ("A",), send=ask)
        finally:
            transport.close()

    assert asyncio.run(run()) == (ip_address("10.0.0.9"),)
