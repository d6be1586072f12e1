"""The server-side commands against the real API and agent; only the machine (kernel, gateway) is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from portico.errors import PorticoError
from portico.management.api.app import create_app
from portico.management.cli import ca, clients, server, settings
from portico.management.cli.app import app
from portico.management.client import ApiClient
from portico.server import install
from portico.server.agent import Agent
from portico.server.peers.joining import Joining
from portico.server.peers.tokens import JoinToken
from portico.settings.document import dump, load_data
from portico.settings.model import Settings

DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {
        "name": "da1",
        "internet_interface": "lo",
        "internal_interface": "lo",
        "internal_ipv4": "127.0.0.1",
        "workers": 1,
    },
}

SESSION = {
    "session": 7,
    "peer": "203.0.113.101:5000",
    "identity": {"subject": "client1", "serial": "1", "issuer_sha256": "aa"},
    "addresses": ["fe80::1", "fd7c:1a2b:3c4d:1000::c"],
    "bytes_in": 1_500,
    "bytes_out": 10,
    "packets_in": 2,
    "packets_out": 1,
    "since": 0,
    "tls": "TLSv1_3",
    "segments": True,
    "drops": {},
}


class Machine:
    """Stands for kernel and gateway."""

    def __init__(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failure: PorticoError | None = None
        self.sessions: list[dict[str, Any]] = []
        self.agent = agent

        async def apply(document: Settings, values: Any) -> list[Any]:
            if self.failure is not None and document.drift == "report":
                raise self.failure
            agent.platform.settings, agent.platform.values = document, values
            return []

        async def sessions() -> list[dict[str, Any]]:
            return [dict(session) for session in self.sessions]

        async def disconnect(numbers: list[int]) -> int:
            before = len(self.sessions)
            self.sessions = [s for s in self.sessions if s["session"] not in numbers]
            return before - len(self.sessions)

        async def check(_document: Settings, **_: Any) -> list[Any]:
            return []

        async def refresh() -> None:
            agent.credentials.secrets(agent.platform.settings or load_data(DOCUMENT), server_now())

        monkeypatch.setattr(agent.platform, "apply", apply)
        monkeypatch.setattr(agent.platform, "refresh", refresh)
        monkeypatch.setattr(agent.platform.gateway, "sessions", sessions)
        monkeypatch.setattr(agent.platform.gateway, "disconnect", disconnect)
        monkeypatch.setattr(agent, "check", check)


def server_now() -> Any:
    from portico.server.credentials import now_utc

    return now_utc()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    agent = Agent(tmp_path / "state")
    stand_in = Machine(agent, monkeypatch)
    transport = TestClient(create_app(agent), raise_server_exceptions=False)._transport

    def connect() -> ApiClient:
        return ApiClient(tmp_path / "socket", transport=transport)

    for module in (ca, clients, server, settings):
        monkeypatch.setattr(module, "server", connect)
    yield stand_in
    agent.credentials.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def written(path: Path, **changes: Any) -> str:
    path.write_text(dump(load_data({**DOCUMENT, **changes})))
    return str(path)


def test_settings_life(machine: Machine, tmp_path: Path) -> None:
    assert run("settings", "show").exit_code == 6, "nothing was installed"
    first = written(tmp_path / "1.yaml")
    assert answer("settings", "apply", first, "--yes")["revision"]["number"] == 1
    assert run("settings", "show").stdout == Path(first).read_text()
    second = written(tmp_path / "2.yaml", drift="report")
    planned = answer("settings", "plan", second)
    assert planned["revision"] is None
    assert "~ drift: repair -> report" in planned["difference"]["lines"]
    assert answer("settings", "apply", second, "--dry-run")["revision"] is None
    assert answer("settings", "apply", second, "--yes", "-m", "why")["revision"]["number"] == 2
    assert [(r["number"], r["progress"]["stage"]) for r in answer("settings", "history")] == [
        (2, "applied"),
        (1, "applied"),
    ]
    assert "~ drift: repair -> report" in run("settings", "compare", "1", "2").stdout
    assert answer("settings", "rollback", "1", "--yes")["revision"]["number"] == 3
    assert "drift: repair" in run("settings", "show").stdout
    assert "nat64.prefix" in answer("settings", "show", "--effective")
    assert "from deployment.organisation_prefix" in run("settings", "show", "--effective").stdout


def test_settings_refusals(machine: Machine, tmp_path: Path) -> None:
    first = written(tmp_path / "1.yaml")
    answer("settings", "apply", first, "--yes")
    bad = tmp_path / "bad.yaml"
    bad.write_text(Path(first).read_text() + "unknown_key: 1\n")
    refused = run("settings", "apply", str(bad), "--yes")
    assert refused.exit_code == 3
    assert "SETTINGS_UNKNOWN_KEY" in refused.stderr
    assert run("settings", "apply", str(tmp_path / "none.yaml"), "--yes").exit_code == 6
    assert run("settings", "apply", written(tmp_path / "2.yaml", drift="report")).exit_code == 5, "nobody to ask"
    conflict = run("settings", "apply", str(tmp_path / "2.yaml"), "--yes", "--expected-revision", "9")
    assert conflict.exit_code == 7
    assert run("settings", "rollback", "99", "--yes").exit_code == 6
    assert [r["number"] for r in answer("settings", "history")] == [1], "nothing was stored"


def test_failed_change_rolls_back_and_says_so(machine: Machine, tmp_path: Path) -> None:
    answer("settings", "apply", written(tmp_path / "1.yaml"), "--yes")
    machine.failure = PorticoError("The kernel refused", why="no such device")
    failed = run("settings", "apply", written(tmp_path / "2.yaml", drift="report"), "--yes")
    assert failed.exit_code == 1
    assert "revision 1 is in force again as revision 3" in failed.stderr
    assert "no such device" in failed.stderr
    assert [r["number"] for r in answer("settings", "history")] == [3, 2, 1]


def test_editor(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer("settings", "apply", written(tmp_path / "1.yaml"), "--yes")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^drift: repair/drift: report/' \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.delenv("VISUAL", raising=False)
    assert answer("settings", "edit", "--yes")["revision"]["number"] == 2
    assert answer("settings", "edit", "--yes") == {"changed": False}


def test_certificates_and_clients(machine: Machine, tmp_path: Path) -> None:
    assert run("ca", "show").exit_code == 1, "there is no CA yet"
    answer("settings", "apply", written(tmp_path / "1.yaml"), "--yes")
    assert "corp.example.net Portico CA" in answer("ca", "init", "--yes")["subject"]
    assert run("ca", "init", "--yes").exit_code == 7
    token = answer("ca", "token", "create", "--name", "client1", "--ttl", "30m")
    assert token["url"] == "https://da.example.net:443"
    assert run("ca", "token", "create", "--name", "client1").stdout.strip(), "the token alone is on stdout"
    assert run("ca", "token", "create", "--name", "bad name").exit_code == 1
    assert run("ca", "token", "create", "--name", "x", "--ttl", "soon").exit_code == 1
    assert answer("ca", "token", "revoke", token["id"], "--yes")["state"] == "burned"
    assert {t["state"] for t in answer("ca", "token", "list")} == {"burned", "open"}
    files = answer("ca", "issue", "--name", "client1", "--into", str(tmp_path))
    assert Path(files["key"]).stat().st_mode & 0o077 == 0
    (issued,) = answer("ca", "list", "--name", "client1")
    assert answer("ca", "export")["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    assert answer("ca", "renew", "--yes")["server_certificate"]["subject"] == "CN=da.example.net"

    assert answer("clients", "list", "--state", "never seen")["clients"][0]["state"] == "never seen"
    assert answer("clients", "list", "--state", "offline")["clients"] == []
    assert run("clients", "list", "--state", "banana").exit_code == 2
    machine.sessions = [SESSION]
    (client,) = answer("clients", "list")["clients"]
    assert (client["state"], client["serial"]) == ("connected", "1")
    people = run("clients", "list").stdout
    assert "fd7c:1a2b:3c4d:1000::c, fe80::1" in people
    assert "1.5 kB" in people
    assert "TLSv1_3" in run("clients", "show", "client1").stdout
    assert run("clients", "show", "nobody").exit_code == 6
    assert answer("clients", "disconnect", "client1", "--dry-run") == {"dry_run": True, "closes": 1}
    assert answer("clients", "disconnect", "client1", "--yes") == {"closed": 1}
    assert run("clients", "revoke", "client1").exit_code == 5, "nobody to ask"
    assert answer("clients", "revoke", "client1", "--yes")["serials"] == [issued["serial"]]
    assert answer("clients", "show", "client1")["state"] == "revoked"
    assert answer("ca", "revoke", issued["serial"], "--yes") == {"serials": [], "closed": 0}


def test_agent_that_does_not_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTICO_RUNTIME_DIR", str(tmp_path))
    for command in (("server", "status"), ("settings", "show"), ("clients", "list"), ("ca", "show")):
        result = run(*command)
        assert result.exit_code == 4
        assert "portico server start" in result.stderr


def test_status_is_complete_before_anything_is_installed(machine: Machine) -> None:
    result = run("server", "status", "--json")
    assert result.exit_code == 1
    status = json.loads(result.stdout)
    assert (status["serving"], status["revision"]) == (False, None)
    assert "Not serving" in run("server", "status").stdout


def test_api_errors_have_one_shape(machine: Machine) -> None:
    http = TestClient(create_app(machine.agent), raise_server_exceptions=False)
    for method, path, body, status in (
        ("GET", "/nowhere", None, 404),
        ("DELETE", "/v1/status", None, 405),
        ("POST", "/v1/settings", {}, 400),
        ("POST", "/v1/settings", {"yaml": 5}, 400),
        ("POST", "/v1/settings", {"yaml": "a: ["}, 422),
        ("POST", "/v1/revocations", {}, 400),
        ("GET", "/v1/settings/history?limit=0", None, 400),
        ("GET", "/v1/clients/none", None, 404),
    ):
        response = http.request(method, path, json=body)
        assert response.status_code == status, (path, response.text)
        assert {"code", "what", "why", "resolution"} <= set(response.json()["error"]), path
    assert http.get("/v1/openapi.json").json()["info"]["title"] == "Portico"


def test_install_is_planned_without_root_or_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTICO_STATE_DIR", str(tmp_path))
    file = written(tmp_path / "settings.yaml")
    monkeypatch.setattr(server, "verify", lambda *_: [])
    result = answer("server", "install", "--file", file, "--dry-run")
    assert "Store the settings as revision 1" in result["steps"]
    assert not (tmp_path / "server").exists()
    incomplete = run("server", "install", "--yes", "--domain", "corp.example.net")
    assert incomplete.exit_code == 1
    assert "--connect-to" in incomplete.stderr


def test_a_machine_has_its_unit_before_the_settings_make_it_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "systemd_runs", lambda: True)
    token = JoinToken("10.0.0.1", 2505, "pin", "id", "secret", "da2")
    for steps in (
        install.install_steps(load_data(DOCUMENT), tmp_path, author="test"),
        install.join_steps(Joining(token, tmp_path, "eth0", "eth1", {}), tmp_path),
    ):
        *before, last = [step.name for step in steps]
        assert last.startswith("Store the settings")
        assert "Enable portico-server.service" in before


def test_steps_of_an_installation_can_be_repeated(tmp_path: Path) -> None:
    document, state = load_data(DOCUMENT), tmp_path / "state"
    for _ in range(2):
        for step in install.install_steps(document, state, author="test"):
            if step.name.startswith(("Create the cert", "Issue")) and step.needed():
                step.do()
    authority = (state / "certificates" / "authority.pem").read_bytes()
    store = next(s for s in install.install_steps(document, state, author="test") if s.name.startswith("Store"))
    store.do()
    assert (state / "certificates" / "authority.pem").read_bytes() == authority
    with pytest.raises(PorticoError, match="already"):
        install.refuse_second_installation(state)
