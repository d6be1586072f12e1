"""Fetches the network location server's page as a computer inside does."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import h11

from portico.errors import Unavailable
from portico.settings.addresses import Address

TIMEOUT = 5.0
MAXIMUM_ANSWER = 64 * 1024


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


async def fetch(url: str, address: Address, context: ssl.SSLContext, *, timeout: float = TIMEOUT) -> Reached:  # noqa: ASYNC109
    """GETs a URL at one address of its host.

    Raises:
        Unavailable: code NLS_UNREACHABLE; it does not answer, not with 200, or its certificate is not trusted.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    why = ""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(
                str(address), port, ssl=context, server_hostname=host, limit=MAXIMUM_ANSWER
            )
            try:
                authority = host if port == 443 else f"{host}:{port}"
                writer.write(
                    f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode()
                )
                status = await _status(reader)
                certificate = writer.get_extra_info("peercert") or {}
            finally:
                writer.transport.abort()
        if status == 200:
            end = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            return Reached(datetime.fromtimestamp(end, UTC))
        why = f"it answers {status} instead of 200"
    except TimeoutError:
        why = f"no answer within {timeout:g} s"
    except ssl.SSLCertVerificationError as error:
        why = f"its certificate is refused: {error.verify_message}"
    except (OSError, EOFError, h11.RemoteProtocolError) as error:
        why = str(error) or type(error).__name__
    raise Unavailable(
        f"The network location server {url} cannot be used at {address}",
        why=f"{why}; clients inside take themselves to be outside",
        resolution="Repair it at once; 'portico server status' shows what this server's own page lacks",
        code="NLS_UNREACHABLE",
    )


async def _status(reader: asyncio.StreamReader) -> int:
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAXIMUM_ANSWER)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            client.receive_data(await reader.read(4096))
