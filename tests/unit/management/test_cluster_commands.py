"""`portico cluster stop` costs tunnels: it says how many, asks, and does nothing that nobody has agreed to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from portico.management.cli import cluster
from portico.management.cli.app import app
from portico.management.cli.exit_codes import ExitCode


class Api:
    """A cluster of two servers that remembers what it was told to do."""

    def __init__(self) -> None:
        self.commands: list[Any] = []

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None: ...

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/v1/cluster"
        servers = [
            {
                "name": name,
                "priority": priority,
                "state": "Converged",
                "conditions": [],
                "weight": 50,
                "buckets": [30, 30],
                "paths": [],
            }
            for priority, name in enumerate(("da1", "da2"), 1)
        ]
        return {
            "servers": servers,
            "directory": {"da1": 3, "da2": 1},
            "rules": [],
            "converged": True,
            "map_version": 7,
            "mode": "unicast",
            "filter": "eBPF",
            "filter_why": "",
            "tunnels_closed": {},
            "problem": None,
            "events": [],
        }

    def post(self, _path: str, body: Any) -> dict[str, Any]:
        self.commands.append(body)
        return self.get("/v1/cluster")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    found = Api()
    monkeypatch.setattr(cluster, "server", lambda: found)
    return found


def test_stop_without_a_terminal_names_both_ways_on(api: Api) -> None:
    result = CliRunner().invoke(app, ["cluster", "stop", "da2"])
    assert result.exit_code == ExitCode.NOT_PERMITTED
    assert "--yes" in result.stderr and "--dry-run" in result.stderr
    assert not api.commands


def test_stop_can_be_looked_at_first(api: Api) -> None:
    found = CliRunner().invoke(app, ["cluster", "stop", "da1", "--dry-run", "--json"])
    assert json.loads(found.stdout) == {
        "dry_run": True,
        "would": "stop",
        "server": "da1",
        "clients": 3,
        "buckets": 30,
    }
    said = CliRunner().invoke(app, ["cluster", "stop", "da2", "--dry-run"]).stdout
    assert "30 buckets" in said and "1 client address." in said
    assert CliRunner().invoke(app, ["cluster", "stop", "da9", "--dry-run"]).exit_code == ExitCode.NOT_FOUND
    assert not api.commands


def test_stop_with_yes_stops(api: Api) -> None:
    result = CliRunner().invoke(app, ["cluster", "stop", "da2", "--yes"])
    assert result.exit_code == ExitCode.DONE, result.stderr
    assert api.commands == [{"command": "stop", "server": "da2"}]
