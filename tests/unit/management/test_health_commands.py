"""`portico health` and `portico events` over the real API, with an agent whose observations are made up."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from portico.health.components import Component
from portico.health.observations import Observations
from portico.management.api.app import create_app
from portico.management.cli import health as commands
from portico.management.cli.app import app
from portico.management.client import ApiClient
from portico.server.agent import Agent

from ..health.test_heuristics import FINE, seen, silent


class Deployment:
    """One server, and what is seen of it."""

    def __init__(self, agent: Agent, monkeypatch: pytest.MonkeyPatch, connect: Callable[[], ApiClient]) -> None:
        self.agent = agent
        self.connect = connect
        self.seen: Observations = replace(FINE, cluster=None)

        async def look(*_: Any) -> Observations:
            return self.seen

        monkeypatch.setattr(agent.health._collector, "look", look)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    agent = Agent(tmp_path / "state")
    transport = TestClient(create_app(agent), raise_server_exceptions=False)._transport
    made = Deployment(agent, monkeypatch, lambda: ApiClient(tmp_path / "socket", transport=transport))
    monkeypatch.setattr(commands, "server", made.connect)
    yield made
    agent.health.events.close()
    agent.credentials.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str, status: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def test_all_is_well(deployment: Deployment) -> None:
    found = answer("health", "--refresh")
    assert found["state"] == "OK" and found["cluster"] is False
    (report,) = found["servers"]
    assert [row["title"] for row in report["components"]] == [component.label for component in Component]
    assert report["distribution"]["message"] == "the settings were distributed successfully"
    shown = run("health")
    assert shown.exit_code == 0 and "Teredo" in shown.stdout and "do not enable Teredo" in shown.stdout


def test_an_error_has_a_cause_a_resolution_and_exit_status_one(deployment: Deployment) -> None:
    deployment.seen = replace(seen(dns_servers=silent("10.0.0.53", "10.0.0.54")), cluster=None)
    shown = run("health", "--refresh")
    assert shown.exit_code == 1
    assert "No DNS server of the intranet answers (DNS_NO_SERVER_ANSWERS)" in shown.stdout
    assert "Why:  10.0.0.53: no answer" in shown.stdout and "Next: Look at the DNS servers" in shown.stdout
    found = answer("health", "Dns", "--server", "da1", status=1)
    assert [row["component"] for report in found["servers"] for row in report["components"]] == ["dns"]
    assert found["state"] == "Error"
    assert answer("health", "nat64")["state"] == "OK", "the state is that of what was asked for"


def test_a_warning_is_no_error(deployment: Deployment) -> None:
    deployment.seen = replace(seen(dns_servers=silent("10.0.0.54")), cluster=None)
    assert answer("health", "--refresh")["state"] == "Warning"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("health", "teleport"), "NO_SUCH_COMPONENT"), (("health", "--server", "da9"), "NO_SUCH_SERVER")],
)
def test_what_there_is_not(deployment: Deployment, arguments: tuple[str, ...], code: str) -> None:
    answer("health", "--refresh")
    result = run(*arguments, "--json")
    assert result.exit_code == 6 and json.loads(result.stderr)["error"]["code"] == code


def test_changes_are_events(deployment: Deployment) -> None:
    answer("health", "--refresh")
    assert answer("events") == {"events": [], "oldest": None, "more": False}
    for servers in (silent("10.0.0.54"), silent("10.0.0.53", "10.0.0.54"), FINE.dns_servers):
        deployment.seen = replace(seen(dns_servers=servers), cluster=None)
        run("health", "--refresh")
    found = answer("events")["events"]
    assert [(event["former"], event["state"]) for event in found] == [
        ("OK", "Warning"),
        ("Warning", "Error"),
        ("Error", "OK"),
    ]
    assert answer("events", "--since", "1h", "--component", "nat64")["events"] == []
    assert answer("events", "--limit", "1")["more"] is True
    shown = run("events").stdout
    assert re.search(
        r"da1 dns Warning -> Error: No DNS server of the intranet answers \(DNS_NO_SERVER_ANSWERS\)", shown
    )
    assert run("events", "--since", "whenever").exit_code == 1


def test_following_shows_new_events_only_once(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    run("health", "--refresh")
    looks = iter((silent("10.0.0.54"), FINE.dns_servers, None))

    def sleep(_seconds: float) -> None:
        servers = next(looks)
        if servers is None:
            raise KeyboardInterrupt
        deployment.seen = replace(seen(dns_servers=servers), cluster=None)
        with deployment.connect() as api:
            api.get("/v1/health", refresh=True)

    monkeypatch.setattr(time, "sleep", sleep)
    result = run("events", "--follow", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["state"] for line in lines] == ["Warning", "OK"]
    result_after = answer("events")["events"]
    assert [line["number"] for line in result_after] == [1, 2]


def test_metrics_are_what_prometheus_reads(deployment: Deployment) -> None:
    deployment.seen = replace(seen(dns_servers=silent("10.0.0.54")), cluster=None)
    run("health", "--refresh")
    http = TestClient(create_app(deployment.agent))
    found = http.get("/v1/metrics/health")
    assert found.status_code == 200 and found.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = found.text.splitlines()
    assert 'portico_health_state{server="da1",component="dns",state="Warning"} 1' in lines
    assert 'portico_health_state{server="da1",component="dns",state="OK"} 0' in lines
    form = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+)|([a-z_]+\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\} [0-9.e+]+)')
    assert all(form.fullmatch(line) for line in lines), lines


def test_alerts_say_what_became_of_them(deployment: Deployment) -> None:
    run("health", "--refresh")
    found = TestClient(create_app(deployment.agent)).get("/v1/alerts").json()
    assert found["sends_for_all"] is True and found["receivers"] == [] and found["changes"]["told"] == 0
