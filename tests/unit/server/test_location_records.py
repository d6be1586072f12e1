"""The records as the agent keeps them, against BIND on loopback."""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from portico.errors import Conflict, NotPermitted
from portico.naming.records import update
from portico.naming.records.plan import RecordChange
from portico.server.location import records as module
from portico.server.location.records import REFRESHED_NAME, Records
from portico.settings.document import load_data
from portico.settings.effective import Effective, effective
from portico.settings.model import Settings
from tests.unit.naming.records.conftest import Bind, bind, write_key
from tests.unit.naming.records.test_plan import DATA, FACTS, NLS, PROBE

__all__ = ["bind"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLING", 0.0)


def in_force(bind: Bind, **sections: Any) -> tuple[Settings, Effective]:
    data = copy.deepcopy(DATA)
    data["corporate_dns"] = {
        "servers": [str(bind.server)],
        "update_server": str(bind.server),
        "update": "tsig",
        "key_file": str(bind.key_file),
    }
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values} if isinstance(values, dict) else values
    settings = load_data(data)
    return settings, effective(settings, FACTS)


def kept(state: Path, leads: bool | Callable[[], bool] = True) -> Records:
    return Records(state, leads if callable(leads) else lambda: bool(leads))


def tick(records: Records, document: tuple[Settings, Effective]) -> None:
    records.changed()
    asyncio.run(records.tick(*document))


def test_what_is_missing_is_written_told_and_then_right(bind: Bind, tmp_path: Path) -> None:
    records = kept(tmp_path)
    tick(records, in_force(bind))
    assert bind.records(PROBE, "A") == ["10.0.0.2"]
    assert records.last is not None and records.last.ok and records.problems() == []
    (repair,) = records.repairs
    assert repair.repaired and any(PROBE in text and "missing" in text for text in repair.faults)
    status = records.status()
    assert status is not None and status["writes"] and status["ok"]


def test_only_the_server_that_leads_writes_and_all_look(bind: Bind, tmp_path: Path) -> None:
    records = kept(tmp_path, leads=False)
    tick(records, in_force(bind))
    assert bind.records(PROBE, "A") == []
    assert {error.code for error in records.problems()} == {"DNS_RECORD_MISSING"}
    with pytest.raises(Conflict) as caught:
        asyncio.run(records.write(*in_force(bind), dry_run=False))
    assert caught.value.code == "DNS_NOT_LEADER"


def test_a_server_that_begins_to_lead_writes(bind: Bind, tmp_path: Path) -> None:
    leading = [False]
    records = kept(tmp_path, lambda: leading[0])
    tick(records, in_force(bind))
    leading[0] = True
    tick(records, in_force(bind))
    assert records.last is not None and records.last.ok


@pytest.mark.parametrize("sections", [{"drift": "report"}, {"corporate_dns": {"update": "none", "key_file": None}}])
def test_what_is_to_be_reported_only_is_not_written(bind: Bind, tmp_path: Path, sections: dict[str, Any]) -> None:
    records = kept(tmp_path)
    tick(records, in_force(bind, **sections))
    assert bind.records(PROBE, "A") == []
    assert records.problems() and not any(repair.repaired for repair in records.repairs)


def test_a_dry_run_says_what_would_change_and_changes_nothing(bind: Bind, tmp_path: Path) -> None:
    changes, _ = asyncio.run(kept(tmp_path).write(*in_force(bind), dry_run=True))
    assert f"add {PROBE} A 10.0.0.2" in map(str, changes)
    assert bind.records(PROBE, "A") == []


def test_records_are_refreshed_when_it_is_time_also_after_a_restart(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    real = update.write

    def counted(*arguments: Any) -> bool:
        sent.append(len(arguments[4]))
        return bool(real(*arguments))

    monkeypatch.setattr(update, "write", counted)
    document = in_force(bind)
    tick(kept(tmp_path), document)
    assert len(sent) == 1
    tick(kept(tmp_path), document)
    assert len(sent) == 1, "the time of the last refresh outlives a restart"
    later = kept(tmp_path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    tick(later, document)
    assert sent[1:] == [5], "all of them, though every record is right"
    monkeypatch.setattr(time, "time", lambda: now - 3600)  # a clock that went back
    tick(kept(tmp_path), document)
    assert len(sent) == 3


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"refreshed": "x"}', b"\xff", b"[" * 3000])
def test_a_damaged_note_of_the_refresh_costs_a_refresh(bind: Bind, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / REFRESHED_NAME).write_bytes(damage)
    records = kept(tmp_path)
    tick(records, in_force(bind))
    assert records.last is not None and records.last.ok


def test_an_update_that_is_refused_is_a_problem_with_its_cause_and_is_tried_later(bind: Bind, tmp_path: Path) -> None:
    write_key(tmp_path / "other.key")
    document = in_force(bind, corporate_dns={"key_file": str(tmp_path / "other.key")})
    records = kept(tmp_path)
    tick(records, document)
    assert "DNS_UPDATE_REFUSED" in {error.code for error in records.problems()}
    assert [repair.repaired for repair in records.repairs] == [False]
    with pytest.raises(NotPermitted):
        asyncio.run(records.write(*document, dry_run=False))
    tick(records, in_force(bind))
    assert records.problems() == []


def test_an_unverifiable_answer_counts_only_when_the_records_are_right(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samba signs so that nobody can verify it: what it did shows in its records."""
    real = update.write
    monkeypatch.setattr(update, "write", lambda *arguments: real(*arguments) and False)
    records = kept(tmp_path)
    tick(records, in_force(bind))
    assert records.problems() == [] and records.repairs[-1].repaired
    monkeypatch.setattr(update, "write", lambda *_: False)
    real(*_update(bind, [f"delete {PROBE} A 10.0.0.2"]))
    tick(records, in_force(bind))
    assert "DNS_UPDATE_UNCONFIRMED" in {error.code for error in records.problems()}


def _update(bind: Bind, texts: list[str]) -> tuple[Any, ...]:
    settings, _ = in_force(bind)
    changes = [
        RecordChange(name, kind, value, action)  # type: ignore[arg-type]
        for action, name, kind, value in (text.split() for text in texts)
    ]
    return settings.corporate_dns, "corp.example.net", bind.server, "", changes


def test_a_disabled_section_looks_at_nothing(bind: Bind, tmp_path: Path) -> None:
    records = kept(tmp_path)
    tick(records, in_force(bind, corporate_dns={"state": "disabled"}))
    assert records.last is None and records.status() is None and records.problems() == []


def test_the_text_names_the_server_that_takes_updates(bind: Bind, tmp_path: Path) -> None:
    records, document = kept(tmp_path), in_force(bind)
    tick(records, document)
    text = records.text("nsupdate", *document)
    assert text.startswith("server ns.corp.example.net\n") and NLS in text


def test_a_key_that_others_may_read_is_never_used(bind: Bind, tmp_path: Path) -> None:
    exposed = write_key(tmp_path / "exposed.key")
    os.chmod(exposed, 0o644)  # noqa: PTH101
    records = kept(tmp_path)
    tick(records, in_force(bind, corporate_dns={"key_file": str(exposed)}))
    assert "SECRET_FILE_EXPOSED" in {error.code for error in records.problems()}


def test_a_record_that_goes_is_named_before_the_next_look_at_all_of_them(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The serial of the zone tells, which is asked for every few seconds."""
    monkeypatch.setattr(module, "SERIAL_INTERVAL", 0.0)
    document = in_force(bind)
    records = kept(tmp_path)
    tick(records, document)
    looked = records.last
    assert looked is not None and looked.ok
    asyncio.run(records.tick(*document))
    assert records.last is looked, "nothing changed, so nothing is looked at"
    gone = RecordChange(PROBE, "A", "10.0.0.2", "delete")
    update.write(document[0].corporate_dns, looked.zone, bind.server, "", [gone])
    assert bind.records(PROBE, "A") == []
    asyncio.run(records.tick(*document))
    assert bind.records(PROBE, "A") == ["10.0.0.2"]
    assert any(PROBE in text and "missing" in text for text in records.repairs[-1].faults)
