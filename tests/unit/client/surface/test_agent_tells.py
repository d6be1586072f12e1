"""What an agent that is not connected tells, and what its control socket has for a support bundle."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from fastapi.testclient import TestClient

from portico.client.agent import ClientAgent
from portico.client.assistant.report import Place, Report
from portico.client.control import create_app
from portico.client.identity import ClientFiles, ClientSettings, Wish
from portico.client.status import Status


def test_a_computer_without_an_identity_says_so_everywhere(tmp_path: Path) -> None:
    async def body() -> None:
        agent = ClientAgent(ClientFiles(tmp_path))
        told = agent.report()
        assert (told.status, told.place, told.checks) == (Status.NOT_ENROLLED, Place.UNKNOWN, ())
        assert Report.from_dict((await agent.status()).as_dict()["assistant"]) == told

    asyncio.run(body())


def test_a_computer_that_was_disconnected_says_so(tmp_path: Path) -> None:
    files = ClientFiles(tmp_path)
    settings = ClientSettings(url="https://da.example.net:443/IPHTTPS", domain="corp.example.net")
    files.adopt(key_pem="key", chain_pem="chain", trust="trust", settings=settings)
    files.save("wish", Wish(connect=False))

    async def body() -> None:
        assert ClientAgent(files).report().status is Status.DISCONNECTED

    asyncio.run(body())


def test_the_control_socket_has_the_log_and_the_readers(tmp_path: Path) -> None:
    async def make() -> ClientAgent:
        return ClientAgent(ClientFiles(tmp_path))

    agent = asyncio.run(make())
    agent.surface.tail.handle(logging.LogRecord("portico.x", logging.INFO, "", 0, "link=%s", ("link_up",), None))
    with TestClient(create_app(agent)) as control:
        found = control.get("/v1/log").json()
        assert found["lines"][0].endswith("INFO portico.x link=link_up")
        assert control.get("/v1/readers").json()["readers"] == 0
        assert control.get("/v1/status").json()["assistant"]["status"] == "NotEnrolled"
