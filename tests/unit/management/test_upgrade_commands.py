"""`portico server upgrade` and `portico cluster upgrade` on a machine that is played; wheels and journal are real."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from portico.errors import Unavailable
from portico.management.cli import output, upgrade
from portico.management.cli.app import app
from portico.server import control
from portico.server.upgrade import program, wheels
from portico.server.upgrade.core import Step
from portico.server.upgrade.running import read_journal
from tests.unit.server.upgrade.test_running import CutOff
from tests.unit.server.upgrade.test_running import Machine as Played
from tests.unit.server.upgrade.test_wheels import TAG, wheel


class Server:
    """Where `portico server upgrade` runs. `others` are states of the other servers."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.played = Played()
        self.versions = {"da1": "0.1.0", "da2": "0.1.0"}
        self.others = "Default"
        self.missing = False
        patch.setenv("PORTICO_STATE_DIR", str(directory / "state"))
        patch.setenv("PORTICO_RUNTIME_DIR", str(directory / "run"))
        patch.setattr(upgrade, "Machine", lambda _name: self)
        patch.setattr(output, "require_root", lambda _what: None)
        patch.setattr(control, "running_pid", lambda _runtime: 7)
        patch.setattr(wheels, "installed", lambda: SimpleNamespace(version="0.1.0"))
        patch.setattr(wheels, "former_name", lambda _found: f"portico-0.1.0-{TAG}.whl")
        patch.setattr(wheels, "pack", lambda _found, where: wheel(where, "0.1.0"))
        patch.setattr(program, "require_libraries", self._libraries)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.played, name)

    def cluster(self) -> dict[str, Any] | None:
        found = self.played.cluster()
        assert found is not None
        found["servers"][0]["state"] = self.others
        return {**found, "servers": [{**item, "version": self.versions[item["name"]]} for item in found["servers"]]}

    def install(self, path: Path) -> None:
        assert path.read_bytes()
        self.played.done.append(f"install {path.name}")
        self.played.version = path.name.split("-")[1]

    def _libraries(self, _wheel: Path) -> None:
        if self.missing:
            raise Unavailable("The new version needs libraries", code="LIBRARIES_MISSING")

    @property
    def journal(self) -> Any:
        return read_journal(self.directory / "state" / "server" / "upgrade")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(tmp_path, monkeypatch)


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["server", "upgrade", *arguments])
    assert result.exit_code == status, result.output
    return result


def test_a_dry_run_shows_the_plan_and_the_checksum_and_changes_nothing(server: Server, tmp_path: Path) -> None:
    path = wheel(tmp_path, "0.2.0")
    found = json.loads(run("--wheel", str(path), "--dry-run", "--json").stdout)
    assert (found["from"], found["to"], len(found["plan"]), len(found["sha256"])) == ("0.1.0", "0.2.0", 5, 64)
    assert "Will: Take this server out of the cluster" in run("--wheel", str(path), "--dry-run").stdout
    assert server.played.done == [] and server.journal is None and not (tmp_path / "state").exists()


def test_the_program_is_exchanged(server: Server, tmp_path: Path) -> None:
    path = wheel(tmp_path, "0.2.0")
    digest = json.loads(run("--wheel", str(path), "--dry-run", "--json").stdout)["sha256"]
    found = json.loads(run("--wheel", str(path), "--sha256", digest, "--yes", "--json").stdout)
    assert found["upgraded"] and [step["state"] for step in found["steps"]] == ["done"] * 5
    assert server.played.done == ["drain", f"install portico-0.2.0-{TAG}.whl", "restart"]
    assert server.journal.step is Step.DONE
    assert "There is nothing to install" in run(status=1).stderr, "it is over"


def test_one_that_does_not_serve_is_put_back_and_the_status_says_so(server: Server, tmp_path: Path) -> None:
    server.played.broken = ("0.2.0",)
    result = run("--wheel", str(wheel(tmp_path, "0.2.0")), "--yes", status=1)
    assert "✗ Wait until Portico 0.2.0 serves" in result.stderr
    assert "✓ Put Portico 0.1.0 back" in result.stderr
    assert "Portico 0.1.0 is in place again" in result.stdout
    assert "(NOT_SERVING)\n    Why:  It cannot serve: no device" in result.stdout
    assert server.played.version == "0.1.0" and server.played.state == "Converged"


def test_one_that_was_interrupted_goes_on_or_back(server: Server, tmp_path: Path) -> None:
    path = wheel(tmp_path, "0.2.0")
    server.played.cut = "restart"
    with pytest.raises(CutOff):
        CliRunner().invoke(app, ["server", "upgrade", "--wheel", str(path), "--yes"], catch_exceptions=False)
    assert server.journal.step is Step.RESTART
    other = wheel(tmp_path / "other", "0.2.1")
    assert "UPGRADE_IN_FLIGHT" in run("--wheel", str(other), "--yes", "--json", status=7).stderr
    shown = run("--dry-run").stdout.splitlines()
    assert next(line for line in shown if line.startswith("Will")) == "Will: Restart the server"
    assert json.loads(run("--yes", "--json").stdout)["upgraded"]
    server.played.cut = "restart"
    server.played.busy = 2
    with pytest.raises(CutOff):
        CliRunner().invoke(app, ["server", "upgrade", "--wheel", str(other), "--yes"], catch_exceptions=False)
    assert "The upgrade was given up" in run("--back", "--yes", status=1).stdout
    assert server.played.version == "0.1.0"


@pytest.mark.parametrize(
    ("version", "changes", "code"),
    [
        ("0.0.9", {}, "UPGRADE_OLDER"),
        ("0.3.0", {}, "VERSIONS_APART"),
        ("0.2.0", {"others": "Stopped"}, "UPGRADE_OTHERS_OUT"),
        ("0.2.0", {"missing": True}, "LIBRARIES_MISSING"),
    ],
)
def test_what_cannot_go_well_is_refused_before_anything_is_done(
    server: Server, tmp_path: Path, version: str, changes: dict[str, Any], code: str
) -> None:
    vars(server).update(changes)
    result = run("--wheel", str(wheel(tmp_path, version)), "--yes", "--json", status=7 if code[0] in "UV" else 4)
    assert json.loads(result.stderr)["error"]["code"] == code
    assert server.played.done == [] and server.journal is None


def test_a_wheel_that_is_another_one_is_refused(server: Server, tmp_path: Path) -> None:
    result = run("--wheel", str(wheel(tmp_path, "0.2.0")), "--sha256", "0" * 64, "--yes", status=1)
    assert "is not the wheel that was meant" in result.stderr
    assert "There is no upgrade to give up" in run("--back", status=6).stderr
    assert server.played.done == []


@pytest.mark.parametrize(
    ("servers", "says", "status"),
    [
        ([("da1", "0.1.0", "Default"), ("da2", "0.1.0", "Converged")], "Next, on da2", 1),
        ([("da1", "0.1.0", "Default"), ("da2", "0.2.0", "Converged")], "Next, on da1", 1),
        ([("da1", "0.1.0", "Default"), ("da2", "0.2.0", "Stopped")], "Wait until every server", 1),
        ([("da1", "0.2.0", "Default"), ("da2", "0.2.0", "Converged")], "All servers have Portico 0.2.0", 0),
    ],
)
def test_whose_turn_it_is(
    monkeypatch: pytest.MonkeyPatch, servers: list[tuple[str, str, str]], says: str, status: int
) -> None:
    keys = ("name", "version", "state")

    class Api:
        def __enter__(self) -> Api:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def get(self, _path: str) -> Any:
            return {"servers": [dict(zip(keys, item, strict=True)) for item in servers]}

    monkeypatch.setattr(upgrade, "server", Api)
    result = CliRunner().invoke(app, ["cluster", "upgrade", "--to", "0.2.0"])
    assert result.exit_code == status and says in result.stdout
    found = json.loads(CliRunner().invoke(app, ["cluster", "upgrade", "--to", "0.2.0", "--json"]).stdout)
    assert [item["server"] if "server" in item else item["name"] for item in found["servers"]] == ["da1", "da2"]
    assert found["complete"] is (status == 0)
