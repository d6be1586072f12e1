"""Any server answers for the health of all, over the real channel between agents of one process."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portico.errors import NotFound, PorticoError
from portico.files import write_file
from portico.health.components import Component
from portico.health.report import ServerReport
from portico.health.states import HealthState
from portico.server.agent import Agent
from portico.server.health import service
from portico.server.reconcile.wanted import Change
from portico.server.upkeep import Drift
from portico.settings.document import load_data

from ..health.test_delivery import SECRET, Receiver, certificate
from .conftest import Cluster, Scenario, Server, until

Play = Callable[[Scenario], None]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "INTERVAL", 0.1)
    monkeypatch.setattr(service, "SILENCE", 1.0)


NOTHING = ServerReport(server="-", answers=True, at=0, state=HealthState.UNKNOWN, since=0, components=())


async def told(server: Server, about: str) -> ServerReport:
    """What a server says about another one, or itself."""
    whole = await server.agent.health.report()
    return next((report for report in whole.servers if report.server == about), NOTHING)


def codes(report: ServerReport, component: Component) -> set[str]:
    row = report.component(component)
    return {finding.code for finding in row.findings} if row is not None else set()


def _lose_an_address(server: Server) -> None:
    """An address that the machine does not take back, at every look."""

    async def drift() -> list[Change]:
        return [Change("addresses", "add", "10.0.0.12/24 on eth1")]

    async def repair() -> list[Change]:
        raise PorticoError("The address is not taken", why="another one has it")

    platform: Any = server.agent.platform
    platform.drift, platform.repair = drift, repair


async def eventually(check: Callable[[], Any], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.05)


def test_every_server_tells_of_all_and_of_one_that_is_gone(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        _lose_an_address(second)

        async def both() -> bool:
            for server in (first, second):
                report = await told(server, "da2")
                if not report.answers or "ADDRESS_MISSING" not in codes(report, Component.NETWORK_ADAPTERS):
                    return False
            return True

        await eventually(both)
        whole = await first.agent.health.report()
        assert whole.cluster and whole.answered_by == "da1" and whole.state is HealthState.ERROR
        assert (await first.agent.health.server("da2")).servers[0].server == "da2"
        with pytest.raises(NotFound):
            await first.agent.health.server("da9")
        seen = (await told(first, "da2")).distribution
        assert seen is not None and seen.applied == seen.newest == first.in_force[0]
        await second.stop()

        async def gone() -> bool:
            return not (await told(first, "da2")).answers

        await eventually(gone)
        report = await told(first, "da2")
        assert codes(report, Component.SERVER) == {"SERVER_SILENT"}
        adapters = report.component(Component.NETWORK_ADAPTERS)
        assert adapters is not None and adapters.state is HealthState.UNKNOWN and "Error" in adapters.why

        def written() -> bool:
            events = first.agent.health.events.page(server="da2", component=Component.SERVER)["events"]
            return [event["codes"] for event in events][-1:] == [["SERVER_SILENT"]]

        await until(written)

    play(scenario)


def test_drift_that_is_repaired_again_and_again_is_told_and_since_when_survives_a_restart(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        for number in range(5):
            first.agent.drifts.append(Drift(time.time() - number, ["set sysctl x"], True))

        async def returns() -> bool:
            return "DRIFT_RETURNS" in codes(await told(first, "da1"), Component.SERVER)

        await eventually(returns)
        row = (await told(first, "da1")).component(Component.SERVER)
        assert row is not None
        await first.stop()
        kept = json.loads((first.agent.state / service.MEMORY_NAME).read_text())
        assert {item["component"]: item["since"] for item in kept["memory"]["da1"]["components"]}["server"] == row.since

    play(scenario)


def test_exactly_one_server_alerts_about_what_all_share(play: Play, tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        pem, key = certificate(tmp_path)
        secret = tmp_path / "secret"
        write_file(secret, SECRET)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
        receiver = Receiver()
        listener = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context)
        port = listener.sockets[0].getsockname()[1]
        async with listener:
            first = await cluster.found()
            second = await cluster.join(first, "da2")
            latest = first.agent.store().latest()
            assert latest is not None
            data = latest.settings.as_data()
            hook = {"url": f"https://127.0.0.1:{port}/", "secret_file": str(secret), "ca_file": str(pem)}
            data["alerts"] = {"webhooks": [hook], "hold_down_seconds": 1}
            data["ip_https"]["authentication"] = "none"  # both servers see it
            await first.agent.change(load_data(data), expected=None, author="test")

            def about(component: str) -> list[dict[str, Any]]:
                bodies = [json.loads(body) for _, body in receiver.requests]
                return [item for item in bodies if item["component"] == component and item["server"] == "cluster"]

            await until(lambda: bool(about("network-security")))
            (alert,) = about("network-security")
            assert alert["kind"] == "raised" and alert["codes"] == ["CLIENTS_NOT_AUTHENTICATED"]
            assert alert["sender"] == "da1"
            await until(lambda: second.agent.health.alerts()["changes"]["left_to_leader"] > 0)
            assert len(about("network-security")) == 1
            assert first.agent.health.alerts()["sends_for_all"] and not second.agent.health.alerts()["sends_for_all"]
            own = [json.loads(body) for _, body in receiver.requests]
            assert {item["sender"] for item in own if item["server"] == "da2"} <= {"da2"}

    play(scenario)


def test_a_server_that_has_nothing_yet_says_so(tmp_path: Path) -> None:
    async def body() -> None:
        agent = Agent(tmp_path / "state")
        await agent.start()
        try:
            whole = await agent.health.report()
        finally:
            await agent.stop()
        assert not whole.cluster and whole.state is HealthState.ERROR
        (report,) = whole.servers
        assert codes(report, Component.SERVER) == {"NOT_SERVING"}
        rest = {row.state for row in report.components if row.component is not Component.SERVER}
        assert rest == {HealthState.DISABLED}

    asyncio.run(body())
