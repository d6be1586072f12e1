"""The audit log: every way of changing it shows, it stays bounded, and it holds no secret."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.administration.audit import FILE_NAME, HIDDEN, MAXIMUM_ENTRY, AuditLog, redacted
from portico.errors import Unavailable


def now() -> datetime:
    return datetime(2026, 3, 1, 12, tzinfo=UTC)


def opened(root: Path, **limits: int) -> AuditLog:
    (root / "state").mkdir(exist_ok=True)
    return AuditLog(root / "logs", root / "state", now, **limits)


def filled(root: Path, count: int = 5, **limits: int) -> AuditLog:
    log = opened(root, **limits)
    for number in range(count):
        log.append({"who": "alice", "action": f"POST /v1/settings {number}", "before": None, "after": {"n": number}})
    return log


def lines(log: AuditLog) -> list[str]:
    return log.path.read_text().splitlines()


def test_entries_are_chained_private_and_read_newest_first(tmp_path: Path) -> None:
    log = filled(tmp_path)
    assert [entry["number"] for entry in log.entries(limit=3)] == [5, 4, 3]
    assert [entry["number"] for entry in log.entries(limit=3, before=3)] == [2, 1]
    assert [entry["number"] for entry in log.entries(limit=2, after=2)] == [3, 4]
    verdict = log.verify()
    assert (verdict.intact, verdict.entries, verdict.first, verdict.last) == (True, 5, 1, 5)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.directory.stat().st_mode) == 0o700


TAMPERINGS: dict[str, Callable[[list[str]], list[str]]] = {
    "changed": lambda found: [found[0], found[1].replace("alice", "mallory"), *found[2:]],
    "taken out": lambda found: [found[0], *found[2:]],
    "moved": lambda found: [found[1], found[0], *found[2:]],
    "repeated": lambda found: [found[0], *found],
    "cut off at the end": lambda found: found[:-1],
    "cut off at the beginning": lambda found: found[1:],
    "replaced by rubbish": lambda found: [found[0], "{", *found[2:]],
    "emptied": lambda found: [],
    "put in": lambda found: [*found[:2], json.dumps({"number": 3, "previous": "0" * 64, "hash": "0" * 64}), *found[2:]],
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_was_tampered_with_is_seen_now_and_after_more_entries(tampering: str, tmp_path: Path) -> None:
    log = filled(tmp_path)
    log.path.write_text("".join(f"{line}\n" for line in TAMPERINGS[tampering](lines(log))))
    assert not log.verify().intact
    again = opened(tmp_path)
    again.append({"who": "root", "action": "later"})
    assert not again.verify().intact, "going on does not heal it"


def test_a_log_written_anew_by_root_differs_from_what_other_servers_heard(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    log = filled(tmp_path / "a")
    heard = {"da2": log.head()}
    assert log.verify(heard).intact
    (tmp_path / "b").mkdir()
    forged = opened(tmp_path / "b")
    for number in range(5):
        forged.append({"who": "nobody", "action": f"nothing {number}"})
    assert forged.verify().intact
    assert any("da2" in fault for fault in forged.verify(heard).faults)
    (tmp_path / "c").mkdir()
    short = filled(tmp_path / "c", 3)
    assert any("da2" in fault for fault in short.verify(heard).faults)


def test_rotation_bounds_it_and_keeps_the_chain(tmp_path: Path) -> None:
    log = filled(tmp_path, 60, maximum_bytes=1000, maximum_files=4)
    files = sorted(path.name for path in log.directory.iterdir())
    assert files == [FILE_NAME, f"{FILE_NAME}.1", f"{FILE_NAME}.2", f"{FILE_NAME}.3"]
    assert sum(path.stat().st_size for path in log.directory.iterdir()) < 4 * 1500
    verdict = log.verify()
    assert verdict.intact, verdict.faults
    assert verdict.last == 60 and verdict.first > 1
    assert [entry["number"] for entry in log.entries(limit=12)] == list(range(60, 48, -1))
    (log.directory / f"{FILE_NAME}.3").unlink()
    assert not log.verify().intact, "only rotation may take the oldest ones away"


def test_it_goes_on_after_a_restart_and_after_half_a_line(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    log = opened(tmp_path)
    assert log.append({"who": "root", "action": "x"})["number"] == 4
    assert log.verify().intact
    with log.path.open("a") as file:
        file.write('{"number": 5, "half')
    again = opened(tmp_path)
    assert again.append({"who": "root", "action": "y"})["number"] == 5
    assert [entry["number"] for entry in again.entries(limit=10)] == [5, 4, 3, 2, 1]


def test_a_crash_between_the_entry_and_its_note_is_no_fault(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    ends = (tmp_path / "state" / "audit.json").read_bytes()
    log.append({"who": "root", "action": "x"})
    (tmp_path / "state" / "audit.json").write_bytes(ends)
    again = opened(tmp_path)
    assert again.head()[0] == 4
    assert again.verify().intact


def test_what_cannot_be_written_down_is_said_before_anything_is_done(tmp_path: Path) -> None:
    log = opened(tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "audit").write_text("in the way")
    with pytest.raises(Unavailable) as refused:
        log.ready()
    assert refused.value.code == "AUDIT_UNAVAILABLE"
    (tmp_path / "logs" / "audit").unlink()
    log.ready()


def test_secrets_and_long_texts_are_left_out(tmp_path: Path) -> None:
    secret = "hunter2hunter2"
    request: dict[str, Any] = {
        "password": secret,
        "shared_secret": secret,
        "token": secret,
        "nested": [{"api_key": secret, "name": "x"}],
        "settings": {"vpn.radius[0].secret": secret},
        "csr": "-----BEGIN PRIVATE KEY-----\n" + secret,
        "yaml": f"password: {secret}",
        "comment": "x" * 5000,
        "token_id": "ab12",
    }
    log = opened(tmp_path)
    entry = log.append({"who": "alice", "request": request})
    assert secret not in log.path.read_text()
    assert entry["request"]["password"] == HIDDEN
    assert entry["request"]["token_id"] == "ab12"
    assert len(entry["request"]["comment"]) < 2100
    log.append({"who": "alice", "request": {str(number): "x" * 2000 for number in range(200)}})
    assert max(map(len, log.path.read_bytes().splitlines())) < MAXIMUM_ENTRY
    assert log.verify().intact


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_data)
def test_whatever_was_asked_can_be_written_down(data: Any) -> None:
    json.loads(json.dumps(redacted(data)).encode())
