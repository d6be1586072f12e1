"""`portico check` and `portico plan` against the real API and agent; only the machine is left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from portico.management.api.app import create_app
from portico.management.cli import check, settings
from portico.management.cli.app import app
from portico.management.client import ApiClient
from portico.settings.document import dump, load_data
from tests.unit.server.test_refusals import Idle
from tests.unit.settings.test_verify import MACHINE, changed


class Served(Idle):
    """An agent behind the API, and files for the command line."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(directory / "state", patch)
        self.directory = directory
        transport = TestClient(create_app(self.agent), raise_server_exceptions=False)._transport
        for module in (check, settings):
            patch.setattr(module, "server", lambda: ApiClient(directory / "socket", transport=transport))

    def file(self, changes: dict[str, Any]) -> str:
        path = self.directory / "candidate.yaml"
        path.write_text(dump(load_data(changed(changes))))
        return str(path)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    made = Served(tmp_path, monkeypatch)
    yield made
    made.agent.credentials.close()


def portico(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result


def test_all_is_well(served: Served) -> None:
    served.install({})
    result = portico("check")
    assert "✓ da1 checked" in result.stderr
    assert result.stdout == "All is well: revision 1, 1 of 1 server checked.\n"
    report = json.loads(portico("check", "--json").stdout)
    assert (report["errors"], report["warnings"], report["findings"], report["revision"]) == (0, 0, [], 1)
    assert [step["state"] for step in report["servers"]] == ["checked"]


def test_what_is_wrong_is_grouped_and_named_and_has_a_status_of_its_own(served: Served) -> None:
    served.install({})
    served.facts = replace(MACHINE, interfaces={"eth1": MACHINE.interfaces["eth1"]}, processors=1)  # type: ignore[index]
    result = portico("check", status=3)
    assert result.stdout.startswith("Errors\n  da1: There is no such network interface (INTERFACE_MISSING)")
    assert "    Why:  the machine has: eth1\n    Next: Correct the name" in result.stdout
    assert result.stdout.endswith("1 error in revision 1, 1 of 1 server checked.\n")
    served.facts = replace(MACHINE, resolved={"da.example.net": ()})
    result = portico("check")
    assert result.stdout.startswith("Warnings\n  da1: The ConnectTo name does not resolve")
    assert "1 warning in revision 1" in result.stdout


def test_a_document_is_checked_and_not_stored(served: Served) -> None:
    served.install({})
    wrong = served.file({"teredo.state": "enabled"})
    result = portico("check", "--file", wrong, status=3)
    assert "Teredo is not supported in this version (NOT_SUPPORTED) teredo.state" in result.stdout
    assert "in the document, 1 of 1 server" in result.stdout
    assert portico("check", "--file", served.file({"drift": "report"})).stdout.startswith("All is well: the document")
    again = served.file({"teredo.state": "enabled"})
    report = json.loads(portico("check", "--file", again, "--json", status=3).stdout)
    assert report["revision"] is None
    latest = served.agent.store().latest()
    assert latest is not None and latest.number == 1


def test_a_file_that_is_no_document_is_refused_with_its_line(served: Served) -> None:
    served.install({})
    path = served.directory / "broken.yaml"
    path.write_text("schema_version: 1\nteredo: {status: enabled}\n")
    result = portico("check", "--file", str(path), status=3)
    assert "line 2" in result.stderr
    assert "Did you mean 'state'?" in result.stderr


def test_nothing_can_be_checked_before_it_is_installed(served: Served) -> None:
    result = portico("check", "--json", status=6)
    assert json.loads(result.stderr)["error"]["code"] == "NOT_INSTALLED"
    assert portico("check", "--file", served.file({})).stdout.startswith("All is well: the document")


def test_the_check_comes_line_by_line_or_whole(served: Served) -> None:
    served.install({})
    client = TestClient(create_app(served.agent))
    lines = [json.loads(line) for line in client.get("/v1/check?progress=true").text.splitlines()]
    assert [next(iter(line)) for line in lines] == ["step", "report"]
    assert client.get("/v1/check").json()["errors"] == 0
    assert client.post("/v1/check", json={}).status_code == 400

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of the program")

    served.agent.machine.facts = broken  # type: ignore[method-assign]
    answer = TestClient(create_app(served.agent), raise_server_exceptions=False).get("/v1/check")
    assert answer.status_code == 500
    assert "fault of the program" not in answer.text


def test_a_plan_says_whom_it_would_hit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    served.install({})

    async def sessions() -> list[dict[str, Any]]:
        return [{"session": n, "peer": f"203.0.113.{n}:1", "identity": None, "addresses": []} for n in range(12)]

    monkeypatch.setattr(served.agent.gateway, "sessions", sessions)
    path = served.file({"ip_https.port": 8443})
    for command in (["plan"], ["settings", "plan"]):
        result = portico(*command, path)
        assert "~ ip_https.port: 443 -> 8443" in result.stdout
        assert "If it were applied now:\n  12 clients will redial (of da1)" in result.stdout
    found = json.loads(portico("plan", path, "--json").stdout)
    assert found["live"] == {"clients": {"da1": 12}, "bindings": {"da1": 0}, "enrolled": 0, "silent": []}
    assert found["consequences"][0]["disconnects"] is True
    assert found["revision"] is None
    assert "Nobody who is there now would notice." in portico("plan", served.file({"drift": "report"})).stdout
    assert portico("plan", served.file({})).stdout == "No difference.\n"
    refused = portico("plan", served.file({"isatap.state": "enabled"}), status=3)
    assert "ISATAP is not supported" in refused.stderr
    assert asyncio.run(_revision(served)) == 1


async def _revision(served: Served) -> int:
    latest = await asyncio.to_thread(served.agent.store().latest)
    return latest.number if latest is not None else 0
