"""Backups by schedule: when they are due, what is kept, what becomes of one that fails, and who may fetch one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi.testclient import TestClient

from portico.errors import Conflict, InvalidInput, NotFound, NotPermitted, PorticoError
from portico.management.api.app import create_app
from portico.management.api.roles import Requirements
from portico.management.client import ApiClient
from portico.server.agent import Agent
from portico.server.backup.archive import read
from portico.server.backup.container import Passphrase, unseal
from portico.server.backup.schedule import NAME, Backups, due, overdue
from portico.settings.backup import Backup
from portico.settings.document import load_data
from tests.unit.management.test_cli_commands import DOCUMENT

NOW = datetime(2027, 1, 10, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("section", "last", "failed", "expected"),
    [
        ({}, None, None, NOW),
        ({}, NOW - HOUR, None, NOW + 23 * HOUR),
        ({"interval_hours": 1}, NOW - HOUR, None, NOW),
        ({"at": "02:30"}, NOW - timedelta(hours=9.5), None, NOW + timedelta(hours=14.5)),
        ({"at": "02:30"}, NOW - timedelta(hours=9.4), None, NOW + timedelta(hours=14.5)),
        ({"at": "23:30"}, NOW - HOUR, None, NOW + timedelta(hours=11.5)),
        ({"interval_hours": 168, "at": "02:30"}, NOW, None, NOW + timedelta(days=7) - timedelta(hours=9.5)),
        ({}, None, NOW, NOW + timedelta(minutes=15)),
        ({}, NOW - 30 * HOUR, NOW - timedelta(minutes=20), NOW - timedelta(minutes=5)),
    ],
)
def test_when_one_is_due(
    section: dict[str, Any], last: datetime | None, failed: datetime | None, expected: datetime
) -> None:
    assert due(Backup(**section), last, failed, NOW) == expected


def test_when_one_is_too_old() -> None:
    daily = Backup()
    assert not overdue(daily, NOW - 35 * HOUR, NOW - 100 * HOUR, NOW)
    assert overdue(daily, NOW - 37 * HOUR, NOW - 100 * HOUR, NOW)
    assert not overdue(daily, None, NOW - HOUR, NOW), "a schedule that has just begun"
    assert overdue(daily, None, NOW - 37 * HOUR, NOW)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Site:
    """An agent with settings in force, and its backups."""

    def __init__(self, root: Path) -> None:
        self.clock, self.directory = Clock(), root / "safe"
        self.secret = root / "passphrase"
        self.secret.write_text("correct horse\n")
        self.secret.chmod(0o600)
        self.agent = Agent(root / "state")
        store = self.agent.transactions.store()
        section = {"state": "enabled", "directory": str(self.directory), "keep": 2, "passphrase_file": str(self.secret)}
        self.change(section)
        settings = self.agent.platform.settings
        assert settings is not None
        store.mark_applied(store.commit(settings, expected=0, author="ada", now=NOW))
        self.agent.backups = Backups(self.agent, self.clock)

    @property
    def backups(self) -> Backups:
        return self.agent.backups

    def change(self, section: dict[str, Any]) -> None:
        self.agent.platform.settings = load_data({**DOCUMENT, "backup": section})

    def tick(self) -> None:
        asyncio.run(self.backups.tick())

    def names(self) -> list[str]:
        return [str(file["name"]) for file in self.backups.files()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.agent.transactions.close()
    found.agent.credentials.close()


def test_backups_are_made_when_due_kept_and_pruned(site: Site) -> None:
    site.tick()
    assert site.names() == ["portico-da1-20270110T120000Z.backup"]
    (file,) = site.directory.iterdir()
    assert (site.directory.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    manifest = read(unseal(io.BytesIO(file.read_bytes()), Passphrase(b"correct horse")), None)
    assert manifest.revision == 1 and "settings.sqlite" in [entry.path for entry in manifest.files]
    site.tick()
    assert len(site.names()) == 1, "the next one is not due"
    theirs = site.directory / "portico-da2-20270101T000000Z.backup"
    theirs.write_bytes(b"of another server")
    for _ in range(3):
        site.clock.now += 24 * HOUR
        site.tick()
    assert site.names() == [
        "portico-da1-20270113T120000Z.backup", "portico-da1-20270112T120000Z.backup", theirs.name,
    ]  # fmt: skip
    again = Backups(site.agent, site.clock)
    assert again.good == site.backups.good, "a restart makes none anew"
    assert site.backups.problem() is None


def test_one_that_fails_is_told_with_its_cause_and_tried_again(site: Site) -> None:
    site.secret.chmod(0o644)
    site.tick()
    assert site.names() == [] and site.backups.good is None
    problem = site.backups.problem()
    assert problem is not None and "others than its owner" in problem[0] and "chmod 600" in problem[1]
    site.secret.chmod(0o600)
    site.tick()
    assert site.names() == [], "not at once again"
    site.clock.now += timedelta(minutes=15)
    site.tick()
    assert len(site.names()) == 1 and site.backups.problem() is None
    site.clock.now += timedelta(hours=37)
    assert site.backups.problem() is not None, "too old, whatever the reason"
    site.directory.rename(site.directory.with_name("gone"))
    site.directory.write_text("no directory")
    site.tick()
    assert site.backups.last is not None and site.backups.last.error is not None


def test_a_recipient_s_backup_is_read_with_his_key_alone(site: Site, tmp_path: Path) -> None:
    key = X25519PrivateKey.generate()
    public = tmp_path / "backup.pub"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    site.change({"state": "enabled", "directory": str(site.directory), "recipient_file": str(public)})
    site.tick()
    (name,) = site.names()
    assert read(unseal(io.BytesIO(site.backups.file(name).read_bytes()), key), None).revision == 1
    with pytest.raises(InvalidInput) as refused:
        site.backups.plan(name)
    assert refused.value.code == "BACKUP_NOT_OURS"


def test_a_disabled_schedule_makes_none_and_nothing_is_wrong(site: Site) -> None:
    site.change({"state": "disabled"})
    site.tick()
    assert site.backups.status()["next"] is None and site.backups.problem() is None
    with pytest.raises(Conflict) as refused:
        asyncio.run(site.backups.make())
    assert refused.value.code == "BACKUP_DISABLED"


@pytest.mark.parametrize("damage", [b"", b"\xff{", b"[]", b'{"last": {"at": "x"}, "good": null}'])
def test_a_damaged_note_costs_one_more_backup(site: Site, damage: bytes) -> None:
    (site.agent.state / NAME).write_bytes(damage)
    again = Backups(site.agent, site.clock)
    assert again.last is None and again.good is None


def test_the_api_makes_lists_plans_and_gives_them_to_administrators(site: Site, tmp_path: Path) -> None:
    app = create_app(site.agent)
    with (
        TestClient(app, raise_server_exceptions=False) as http,
        ApiClient(tmp_path / "socket", transport=http._transport) as api,
    ):
        assert api.get("/v1/backup")["last"] is None
        made = api.post("/v1/backup/make")
        assert made["revision"] == 1 and made["error"] is None
        assert api.get("/v1/backup/files")["files"][0]["name"] == made["file"]
        path = f"/v1/backup/files/{made['file']}"
        assert api.save(path, tmp_path / "copy") == made["size"]
        assert (tmp_path / "copy").read_bytes() == site.backups.file(made["file"]).read_bytes()
        assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
        found = api.post(f"{path}/plan")
        assert found["manifest"]["revision"] == 1 and found["lines"] == []
        for name in ("..%2F..%2Fstate%2Fapplied.yaml", "applied.yaml", "portico-da9-20270101T000000Z.backup"):
            with pytest.raises(NotFound):
                api.save(f"/v1/backup/files/{name}", tmp_path / "stolen")
        assert not (tmp_path / "stolen").exists()
        site.backups.file(made["file"]).write_bytes(b"damaged")
        with pytest.raises(PorticoError):
            api.post(f"{path}/plan")
    needs = {(method, path): role for method, path, role in Requirements(app).table() if "/v1/backup" in path}
    assert needs == {
        ("GET", "/v1/backup"): "viewer",
        ("GET", "/v1/backup/files"): "viewer",
        ("POST", "/v1/backup/make"): "administrator",
        ("GET", "/v1/backup/files/{name}"): "administrator",
        ("POST", "/v1/backup/files/{name}/plan"): "administrator",
    }


def test_a_passphrase_that_others_read_is_not_used_to_open_one_either(site: Site) -> None:
    site.tick()
    (name,) = site.names()
    site.secret.chmod(0o640)
    with pytest.raises(NotPermitted):
        site.backups.plan(name)
