"""Alerts reach a real receiver over TLS, syslog over each of its ways; trouble is retried, bounded and counted."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from portico.server.health import delivery as delivery_module
from portico.server.health.delivery import LONGEST_PAUSE, MAXIMUM_QUEUE, Delivery, pause
from portico.server.health.senders import SyslogSender, WebhookSender
from portico.settings.alerts import Syslog, Webhook

SECRET = b"a secret of some length"
ALERT: dict[str, Any] = {
    "id": "1",
    "kind": "raised",
    "at": "2027-01-15T08:00:30.500Z",
    "sender": "da1",
    "server": "da1",
    "component": "dns",
    "title": "Dns",
    "about": "",
    "state": "Error",
    "former": "OK",
    "codes": ["A"],
    "what": "No DNS",
    "cause": "because",
    "resolution": "Do this",
    "since": None,
    "seen_by": ["da1"],
    "suppressed": 0,
    "listed": [],
}


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed one for 127.0.0.1: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = (directory / "hooks.pem", directory / "hooks.key")
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def keep(settings: Webhook, secret: bytes, mode: int) -> None:
    path = Path(settings.secret_file)
    path.write_bytes(secret)
    path.chmod(mode)


class Receiver:
    """Answers POSTs with the statuses it was given, the last one for ever."""

    def __init__(self) -> None:
        self.statuses = [204]
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
        self.requests.append((fields, body))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiver(directory: Path) -> AsyncIterator[tuple[Receiver, Webhook]]:
    pem, key = certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    secret = directory / "secret"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        url = f"https://127.0.0.1:{made.port}/hook?x=1"
        yield made, Webhook(url=url, secret_file=str(secret), ca_file=str(pem))


@asynccontextmanager
async def running(delivery: Delivery) -> AsyncIterator[Delivery]:
    task = asyncio.create_task(delivery.run())
    try:
        yield delivery
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "FIRST_PAUSE", 0.01)


def test_a_webhook_is_signed_and_in_order(tmp_path: Path) -> None:
    async def body() -> None:
        async with receiver(tmp_path) as (made, settings), running(Delivery(WebhookSender(settings))) as delivery:
            for number in range(5):
                delivery.put({**ALERT, "id": str(number)})
            await until(lambda: delivery.sent == 5)
            assert [json.loads(content)["id"] for _, content in made.requests] == ["0", "1", "2", "3", "4"]
            fields, content = made.requests[0]
            signed = fields["portico-timestamp"].encode() + b"." + content
            expected = hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
            assert fields["portico-signature"] == f"sha256={expected}"
            assert fields["content-type"] == "application/json"
            assert delivery.status()["name"] == f"127.0.0.1:{made.port}", "a path may be a secret"

    asyncio.run(body())


def test_what_fails_is_tried_again_and_what_is_refused_is_given_up(tmp_path: Path) -> None:
    async def body() -> None:
        async with receiver(tmp_path) as (made, settings), running(Delivery(WebhookSender(settings))) as delivery:
            made.statuses = [500, 429, 200, 404, 200]
            delivery.put({**ALERT, "id": "first"})
            delivery.put({**ALERT, "id": "refused"})
            delivery.put({**ALERT, "id": "last"})
            await until(lambda: delivery.sent == 2)
            status = delivery.status()
            assert (status["failures"], status["dropped"], status["waiting"]) == (3, 1, 0)
            assert [json.loads(c)["id"] for _, c in made.requests] == ["first", "first", "first", "refused", "last"]
            assert status["failing_since"] is None and status["error"] == ""

    asyncio.run(body())


def test_nobody_there_a_foreign_certificate_an_open_secret(tmp_path: Path) -> None:
    async def fails(settings: Webhook, word: str) -> None:
        async with running(Delivery(WebhookSender(settings))) as delivery:
            delivery.put(ALERT)
            await until(lambda: delivery.failures >= 2)
            status = delivery.status()
            assert word in status["error"] and status["failing_since"] is not None and status["waiting"] == 1

    async def body() -> None:
        async with receiver(tmp_path) as (made, settings):
            await fails(settings.model_copy(update={"ca_file": None}), "certificate")
            keep(settings, SECRET, 0o640)
            await fails(settings, "may be read by others")
            keep(settings, b"short", 0o600)
            await fails(settings, "too short")
            assert made.requests == []
        await fails(settings, "")

    asyncio.run(body())


def test_a_full_queue_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    async def body() -> None:
        async with receiver(tmp_path) as (made, settings):
            delivery = Delivery(WebhookSender(settings))
            for number in range(MAXIMUM_QUEUE + 7):
                delivery.put({**ALERT, "id": str(number)})
            assert delivery.status()["dropped"] == 7 and delivery.status()["waiting"] == MAXIMUM_QUEUE
            heir = Delivery(WebhookSender(settings), delivery)
            async with running(heir):
                await until(lambda: heir.sent >= 1)
            assert json.loads(made.requests[0][1])["id"] == "7"

    asyncio.run(body())


def test_pauses_grow_and_end_growing() -> None:
    pauses = [pause(failures) for failures in range(1, 40)]
    assert pauses == sorted(pauses) and pauses[0] == delivery_module.FIRST_PAUSE and pauses[-1] <= LONGEST_PAUSE


def _syslog(address: str, receive: Callable[[], Awaitable[bytes]]) -> bytes:
    async def body() -> bytes:
        async with running(Delivery(SyslogSender(Syslog(address=address), "da1"))) as delivery:
            delivery.put(ALERT)
            async with asyncio.timeout(20):
                got = await receive()
            await until(lambda: delivery.sent == 1)
            return got

    return asyncio.run(body())


def test_syslog_over_a_unix_socket_and_udp(tmp_path: Path) -> None:
    for family, place in ((socket.AF_UNIX, str(tmp_path / "log")), (socket.AF_INET, ("127.0.0.1", 0))):
        with socket.socket(family, socket.SOCK_DGRAM) as channel:
            channel.bind(place)
            channel.setblocking(False)
            unix = family == socket.AF_UNIX
            address = f"unix:{place}" if unix else f"udp://127.0.0.1:{channel.getsockname()[1]}"

            async def receive(channel: socket.socket = channel) -> bytes:
                return await asyncio.get_running_loop().sock_recv(channel, 65_536)

            message = _syslog(address, receive)
        assert message.startswith(b"<27>1 2027-01-15T08:00:30.500Z da1 portico %d raised [portico@" % os.getpid())
        assert message.endswith("] \ufeffDns Error: No DNS: because. Do this".encode())


def test_syslog_over_tcp_counts_octets_and_waits_for_a_receiver() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"

        async def receive() -> bytes:
            await asyncio.sleep(0.1)  # it is refused meanwhile
            listener.listen()
            listener.setblocking(False)
            loop = asyncio.get_running_loop()
            connection, _ = await loop.sock_accept(listener)
            with connection:
                data = b""
                while chunk := await loop.sock_recv(connection, 4096):
                    data += chunk
                return data

        length, _, message = _syslog(address, receive).partition(b" ")
    assert int(length) == len(message) and message.startswith(b"<27>1 ")
