"""The ways by which alerts leave: HTTPS with a signature, and syslog over a Unix socket, UDP or TCP."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from portico.errors import NotPermitted, PorticoError, Unavailable
from portico.files import read_file
from portico.health.alerting import wire
from portico.server.health.delivery import Rejected, Sender
from portico.settings.alerts import Alerts, Syslog, Webhook

SIGNATURE, TIMESTAMP = "Portico-Signature", "Portico-Timestamp"
SHORTEST_SECRET = 16
ANSWER_SECONDS = 10.0

_AGAIN = frozenset({408, 425, 429})
"""Of the answers that refuse, those that say: later."""


def senders(alerts: Alerts, host: str) -> list[Sender]:
    """One for each receiver of the settings."""
    found: list[Sender] = [WebhookSender(item) for item in alerts.webhooks]
    found += [SyslogSender(item, host) for item in alerts.syslog]
    return found


class WebhookSender:
    """POSTs an alert as JSON. Files are read each time: a new secret needs no change of settings."""

    def __init__(self, settings: Webhook) -> None:
        self._settings = settings
        self._http: tuple[int, httpx.AsyncClient] | None = None
        parts = urlsplit(settings.url)
        # Paths and queries of webhooks are often secrets themselves.
        self.name = f"{parts.hostname}:{parts.port or 443}"

    async def send(self, alert: dict[str, Any]) -> None:
        """Raises Rejected, Unavailable, NotPermitted or what `read_file` raises."""
        secret = await asyncio.to_thread(read_secret, Path(self._settings.secret_file))
        http = await self._client()
        content, timestamp = wire.encode(alert), str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "portico",
            TIMESTAMP: timestamp,
            SIGNATURE: wire.signature(secret, timestamp, content),
        }
        try:
            async with http.stream("POST", self._settings.url, content=content, headers=headers) as answer:
                status = answer.status_code
        except httpx.TimeoutException:
            raise Unavailable("The receiver does not answer", why=f"{self.name}: no answer in time") from None
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise Unavailable("The receiver cannot be reached", why=f"{self.name}: {error}") from None
        if 200 <= status < 300:
            return
        if status >= 500 or status in _AGAIN:
            raise Unavailable("The receiver fails", why=f"{self.name}: HTTP status {status}")
        raise Rejected("The receiver refuses the alert", why=f"{self.name}: HTTP status {status}")

    async def close(self) -> None:
        if self._http is not None:
            await self._http[1].aclose()

    async def _client(self) -> httpx.AsyncClient:
        name = self._settings.ca_file
        pem = await asyncio.to_thread(read_file, Path(name)) if name is not None else b""
        if self._http is None or self._http[0] != hash(pem):
            await self.close()
            try:
                context = ssl.create_default_context(cadata=pem.decode("ascii") if pem else None)
            except (ssl.SSLError, UnicodeDecodeError) as error:
                raise Unavailable("The CA file of the receiver cannot be used", why=f"{name}: {error}") from None
            client = httpx.AsyncClient(verify=context, trust_env=False, timeout=ANSWER_SECONDS, follow_redirects=False)
            self._http = (hash(pem), client)
        return self._http[1]


def read_secret(path: Path) -> bytes:
    """The secret of a file that only its owner reads, without the end of its line.

    Raises:
        NotPermitted: others may read it.
        PorticoError: it cannot be read, or is too short.
    """
    content = read_file(path, limit=4096).rstrip(b"\r\n")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise NotPermitted(
            "The secret of the alerts is open to others",
            why=f"{path} may be read by others",
            resolution=f"chmod 600 {path}",
        )
    if len(content) < SHORTEST_SECRET:
        raise PorticoError(
            "The secret of the alerts is too short",
            why=f"{path} holds {len(content)} bytes, {SHORTEST_SECRET} are the least",
            resolution=f"Make one: openssl rand -hex 32 > {path}",
        )
    return content


class SyslogSender:
    """Sends an alert as one message of RFC 5424.

    Nobody acknowledges syslog: what the socket took counts as sent.
    """

    def __init__(self, settings: Syslog, host: str) -> None:
        self._facility = settings.facility
        self._host = host
        self._parts = urlsplit(settings.address)
        self.name = settings.address

    async def send(self, alert: dict[str, Any]) -> None:
        """Raises OSError or Unavailable."""
        message = wire.syslog(alert, self._facility, self._host, os.getpid())
        match self._parts.scheme:
            case "unix":
                await self._unix(message)
            case "udp":
                await self._udp(message)
            case "tcp":
                await self._tcp(message)

    async def close(self) -> None:
        """Nothing stays open."""

    async def _unix(self, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            try:
                channel.connect(self._parts.path)
                await loop.sock_sendall(channel, message)
            except OSError as error:
                raise Unavailable("The syslog service cannot be reached", why=f"{self._parts.path}: {error}") from None

    async def _udp(self, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        place = (self._parts.hostname or "", self._parts.port or 514)
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=place)
        try:
            transport.sendto(message)
        finally:
            transport.close()

    async def _tcp(self, message: bytes) -> None:
        _, writer = await asyncio.open_connection(self._parts.hostname or "", self._parts.port or 601)
        try:
            # RFC 6587 section 3.4.1: the length tells where a message ends, whatever is in it.
            writer.write(b"%d %b" % (len(message), message))
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()
