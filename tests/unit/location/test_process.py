"""The process of the pages as the agent has it: started, confined, told, replaced."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from portico.errors import Unavailable
from portico.location.availability import Availability, judge
from portico.supervisor import ChildError, Program, Start, Supervisor
from tests.unit.location.conftest import NAME, Made

PROGRAM = Program("location", "portico.location.process", heartbeat="stats")


def status(port: int) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def secure(port: int, trust: str) -> bytes:
    context = ssl.create_default_context(cadata=trust)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(4096)


def test_the_pages_are_served_by_a_confined_process(certificate: Made) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as https:
            fds = {"web_probe": [http.fileno()], "nls": [https.fileno()]}
            config: dict[str, Any] = {"chain": certificate.chain, "key": certificate.key}
            child = Supervisor(PROGRAM, lambda: Start(config, fds), lambda _event: None)
            child.start()
            try:
                await child.wait_ready(30.0)
                port, tls_port = http.getsockname()[1], https.getsockname()[1]
                assert (await asyncio.to_thread(status, port))[0] == 503
                await child.request("say", availability=Availability().as_dict())
                assert (await asyncio.to_thread(status, port))[0] == 200
                down = judge({"intranet": "eth1 has no carrier"})
                await child.request("say", availability=down.as_dict())
                code, text = await asyncio.to_thread(status, port)
                assert code == 503 and b"eth1 has no carrier" in text
                assert (await asyncio.to_thread(secure, tls_port, certificate.trust)).startswith(b"HTTP/1.1 200 ")
                kernel = await asyncio.to_thread(Path(f"/proc/{child.pid}/status").read_text)
                assert "Seccomp:\t2" in kernel and "NoNewPrivs:\t1" in kernel
                with pytest.raises(ChildError):
                    await child.request("say", availability={})
                found = await child.request("stats")
                assert found["answered"] == 4 and not found["available"]
                pid = child.pid
                child.kill("test")
                await child.wait_ended(10.0)
                await child.wait_ready(30.0)
                assert child.pid != pid
                # What connected in between waited in the backlog; nobody has said anything to the new one yet.
                assert (await asyncio.to_thread(status, port))[0] == 503
            finally:
                await child.stop()

    asyncio.run(body())


def test_a_certificate_that_cannot_be_used_is_said(certificate: Made) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as https:
            start = Start({"chain": certificate.chain, "key": "no key"}, {"nls": [https.fileno()]})
            child = Supervisor(PROGRAM, lambda: start, lambda _event: None)
            child.start()
            try:
                with pytest.raises(Unavailable, match="certificate of the network location server"):
                    await child.wait_ready(30.0)
            finally:
                await child.stop()

    asyncio.run(body())
