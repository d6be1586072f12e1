"""`portico lb add` and `portico lb progress`, with an API that answers what the test says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from portico.management.cli import additions, lb
from portico.management.cli.app import app
from portico.server.additions.core import Attempt, Seen, Step, judge, plan

FAILURE = {
    "code": "TOPOLOGY_DIFFERS",
    "what": "This machine cannot join",
    "why": "one [b]",
    "resolution": "Two adapters",
}
OPEN = Seen("da2", token="open", expires="2026-01-01T10:00:00")
JOINING = Seen("da2", token="used", entry=True, member=True, attempt=Attempt(asked=True))
SERVES = Seen("da2", member=True, confirmed=True, reachable=True, entry=True, state="Converged", buckets=30)
REFUSED = Seen("da3", token="used", attempt=Attempt(asked=True, failure=FAILURE, failed=Step.CHECKING))


class Api:
    """Plays lines for whoever follows, and the last of each server for whoever looks once."""

    def __init__(self, *lines: Seen | dict[str, Any]) -> None:
        self.played = [line if isinstance(line, dict) else {"addition": _data(line)} for line in lines]
        self.asked: list[str] = []
        self.posted: list[dict[str, Any]] = []

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, path: str) -> Any:
        self.asked.append(path)
        return {"servers": [line["addition"] for line in self.played if "addition" in line]}

    def post(self, path: str, body: dict[str, Any]) -> Any:
        assert path == "/v1/peers/tokens"
        self.posted.append(body)
        made = None if body.get("dry_run") else "TOKEN"
        return {
            **{"name": body["name"], "token": made, "expires": "2026-01-01T10:00:00+00:00" if made else None},
            **{"server": "da1", "problems": [], "plan": plan(body["name"])},
        }

    def lines(self, _method: str, path: str) -> Iterator[dict[str, Any]]:
        self.asked.append(path)
        yield from self.played


def _data(seen: Seen) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(judge(seen).as_dict()))
    return data


def portico(patch: pytest.MonkeyPatch, api: Api, *arguments: str, status: int = 0) -> Result:
    for module in (additions, lb):
        patch.setattr(module, "server", lambda: api)
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result


def test_a_dry_run_shows_every_step_and_makes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    result = portico(monkeypatch, api, "lb", "add", "da2", "--dry-run")
    assert [line.split()[1] for line in result.stdout.splitlines()] == [f"{step.value}:" for step in Step]
    assert [body["dry_run"] for body in api.posted] == [True]


def test_without_a_terminal_the_token_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(OPEN)
    assert portico(monkeypatch, api, "lb", "add", "da2", "--yes").stdout == "TOKEN\n"
    assert api.asked == []


def test_whoever_follows_sees_each_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(OPEN, {"waiting": ["da2"]}, JOINING, SERVES)
    result = portico(monkeypatch, api, "lb", "add", "da2", "--yes", "--follow")
    assert result.stdout == "TOKEN\n"
    assert api.asked == ["/v1/peers/additions?progress=true&server=da2"]
    shown = [line for line in result.stderr.splitlines() if " da2 " in line and line[0] in "·…✓✗"]
    assert [line.split()[0] + line.split()[2] for line in shown] == [
        *("✓preparing", "·checking", "✓preparing", "✓checking", "…joining", "✓joining", "✓converging"),
    ]
    lines = portico(monkeypatch, api, "lb", "add", "da2", "--yes", "--follow", "--json").stdout.splitlines()
    first, *others = map(json.loads, lines)
    assert first["token"] == "TOKEN"
    assert others == api.played


def test_several_servers_are_seen_at_once_and_a_failure_has_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(SERVES, REFUSED)
    result = portico(monkeypatch, api, "lb", "progress", "da2", "da3", status=1)
    assert api.asked == ["/v1/peers/additions?server=da2&server=da3"]
    assert [line.split()[:5] for line in result.stdout.splitlines()[1:3]] == [
        ["da2", "✓", "✓", "✓", "✓"],
        ["da3", "✓", "✗", "·", "·"],
    ]
    assert "Problem da3: This machine cannot join (TOPOLOGY_DIFFERS)\n    Why:  one [b]" in result.stdout
    result = portico(monkeypatch, api, "lb", "progress", "--follow", status=1)
    assert "✗ da3 checking This machine cannot join" in result.stderr
    assert "Next: Two adapters" in result.stderr
    found = json.loads(portico(monkeypatch, api, "lb", "progress", "--json", status=1).stdout)
    assert [item["state"] for item in found["servers"]] == ["done", "failed"]


def test_nobody_is_being_added(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No server is being added" in portico(monkeypatch, Api(), "lb", "progress").stdout
    assert "No server is being added" in portico(monkeypatch, Api(), "lb", "progress", "--follow").stderr
