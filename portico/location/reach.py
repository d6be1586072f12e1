"""Fetches a page as clients do: the network location server's, the web probe, configured probes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import h11
from cryptography import x509

from portico.errors import Unavailable
from portico.settings.addresses import Address

TIMEOUT = 5.0
MAXIMUM_ANSWER = 64 * 1024
MAXIMUM_BODY = 2048
"""Bytes of a page that are kept: it may say why a server is unavailable."""


class NotReached(Exception):
    """No page came; the text says why.

    Attributes:
        foreign: somebody answered who is not who was asked for: another certificate, no TLS, no HTTP.
    """

    def __init__(self, why: str, *, foreign: bool = False) -> None:
        super().__init__(why)
        self.foreign = foreign


@dataclass(frozen=True)
class Page:
    """An answer.

    Attributes:
        certificate: the server's, DER; empty without TLS.
        body: its beginning.
    """

    status: int
    certificate: bytes = b""
    body: str = ""


@dataclass(frozen=True)
class Reached:
    """An answer of 200 under a certificate that is trusted for the name.

    Attributes:
        not_after: when the certificate ends, UTC.
    """

    not_after: datetime


def trusting(anchors: str | None) -> ssl.SSLContext:
    """A client's context.

    Args:
        anchors: PEM of the certificates that are trusted, which may be that of the server itself; None: the system's.
    """
    context = ssl.create_default_context(cadata=anchors)
    if anchors is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


async def get(
    url: str,
    address: Address,
    context: ssl.SSLContext | None,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - part of the message
    device: str = "",
) -> Page:
    """GETs an http or https URL at one address of its host. Redirections are answers and not followed.

    Args:
        context: for https.
        device: the interface that the connection must leave on; empty leaves that to the routes.

    Raises:
        NotReached: no answer.
    """
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    host, usual = parts.hostname or "", 443 if tls else 80
    port = parts.port or usual
    try:
        async with asyncio.timeout(timeout):
            connection = await _connect(address, port, device)
            try:
                reader, writer = await asyncio.open_connection(
                    sock=connection,
                    ssl=context if tls else None,
                    server_hostname=host if tls else None,
                    limit=MAXIMUM_ANSWER,
                )
            except BaseException:
                connection.close()
                raise
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                authority = f"[{host}]" if ":" in host else host
                return await _exchange(reader, writer, target, authority if port == usual else f"{authority}:{port}")
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise NotReached(f"no answer within {timeout:g} s") from None
    except ssl.SSLCertVerificationError as error:
        raise NotReached(f"its certificate is refused: {error.verify_message}", foreign=True) from None
    except (ssl.SSLError, h11.ProtocolError, UnicodeError) as error:
        raise NotReached(str(error) or type(error).__name__, foreign=True) from None
    except (OSError, EOFError) as error:
        raise NotReached(str(error) or type(error).__name__) from None


async def fetch(url: str, address: Address, context: ssl.SSLContext, *, timeout: float = TIMEOUT) -> Reached:  # noqa: ASYNC109
    """GETs the network location server's page at one address of its host.

    Raises:
        Unavailable: code NLS_UNREACHABLE; it does not answer, not with 200, or its certificate is not trusted.
    """
    try:
        page = await get(url, address, context, timeout=timeout)
        if page.status != 200:
            raise NotReached(f"it answers {page.status} instead of 200")
    except NotReached as error:
        raise Unavailable(
            f"The network location server {url} cannot be used at {address}",
            why=f"{error}; clients inside take themselves to be outside",
            resolution="Repair it at once; 'portico server status' shows what this server's own page lacks",
            code="NLS_UNREACHABLE",
        ) from None
    return Reached(x509.load_der_x509_certificate(page.certificate).not_valid_after_utc)


async def _connect(address: Address, port: int, device: str) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.setblocking(False)
        if device:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, authority: str) -> Page:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAXIMUM_ANSWER)
    head = client.send(h11.Request(method="GET", target=target, headers=[("Host", authority), ("Connection", "close")]))
    writer.write((head or b"") + (client.send(h11.EndOfMessage()) or b""))
    tls = writer.get_extra_info("ssl_object")
    certificate = (tls.getpeercert(binary_form=True) or b"") if tls is not None else b""
    status, body = 0, b""
    # What comes behind the status is for people: a page that breaks off has answered.
    with contextlib.ExitStack() as lenient:
        while len(body) < MAXIMUM_BODY:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
                lenient.enter_context(contextlib.suppress(OSError, EOFError, h11.ProtocolError))
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif event is h11.NEED_DATA:
                client.receive_data(await reader.read(4096))
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
    if not status:
        raise EOFError("the connection ended without an answer")
    return Page(status, certificate, body[:MAXIMUM_BODY].decode("utf-8", "replace"))
