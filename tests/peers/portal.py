"""A captive portal: every name is this host, and every page asks to log in. `portal.py ADDRESS [TLS_PORT HTTP_PORT]`.

DNS on UDP 53 answers each A question with ADDRESS; HTTPS shows a certificate of its own for whatever name is asked, and
HTTP sends elsewhere.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import sys
import tempfile
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PAGE = b"HTTP/1.1 302 Found\r\nLocation: http://login.example.org/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Names(asyncio.DatagramProtocol):
    """Says the same of every name."""

    def __init__(self, address: str) -> None:
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        answer = dns.message.make_response(dns.message.from_wire(data))
        answer.flags |= dns.flags.RA
        (question,) = answer.question
        if question.rdtype == dns.rdatatype.A:
            answer.answer = [dns.rrset.from_text(question.name, 5, "IN", "A", self._address)]
        self._transport.sendto(answer.to_wire(), peer)


def context(name: str) -> ssl.SSLContext:
    """A server's context with a certificate that nobody else has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "both.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        made.load_cert_chain(path)
    return made


async def _login(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PAGE)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def main(address: str, tls: int, http: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Names(address), local_addr=(address, 53))
    secure = await asyncio.start_server(_login, address, tls, ssl=context("directaccess-nls.corp.example.net"))
    await asyncio.start_server(_login, address, http)
    await secure.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *(int(port) for port in (sys.argv[2:4] or (443, 80)))))
