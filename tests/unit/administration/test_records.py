"""Tokens, sessions and certificates of administrators: what is kept, what is accepted, and how servers agree."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.administration.records import (
    MAXIMUM_RECORDS,
    SESSIONS_EACH,
    AccessRecords,
    Record,
    merge,
)
from portico.administration.roles import Role
from portico.errors import InvalidInput, LimitReached, NotFound, NotPermitted

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def make(records: AccessRecords, name: str = "monitoring", lifetime: timedelta = HOUR) -> tuple[Record, str]:
    return records.create("token", name, Role.VIEWER, author="root", lifetime=lifetime, now=NOW)


def test_a_token_is_accepted_until_it_expires_and_its_secret_is_nowhere(tmp_path: Path) -> None:
    records = AccessRecords(tmp_path / "management")
    record, text = make(records)
    assert records.verify(text, NOW).name == "monitoring"
    stored = records.path.read_text()
    assert stat.S_IMODE(records.path.stat().st_mode) == 0o600
    assert text.rpartition("_")[2] not in stored
    assert text not in repr(record)
    assert "secret_sha256" not in record.shown(NOW)
    again = AccessRecords(tmp_path / "management")
    assert again.verify(text, NOW).id == record.id
    with pytest.raises(NotPermitted):
        again.verify(text, NOW + HOUR)


@pytest.mark.parametrize("change", ["secret", "id", "kind", "rubbish", "empty"])
def test_what_is_not_the_token_is_refused_in_the_same_words(change: str, tmp_path: Path) -> None:
    records = AccessRecords(tmp_path)
    record, text = make(records)
    wrong = {
        "secret": text[:-1] + ("A" if text[-1] != "A" else "B"),
        "id": text.replace(record.id, "0" * 16),
        "kind": text.replace("_token_", "_session_"),
        "rubbish": "portico",
        "empty": "",
    }[change]
    with pytest.raises(NotPermitted) as refused:
        records.verify(wrong, NOW)
    records.revoke(record.id, now=NOW)
    with pytest.raises(NotPermitted) as revoked:
        records.verify(text, NOW)
    assert str(refused.value) == str(revoked.value)


def test_a_certificate_that_was_not_recorded_is_nobodys(tmp_path: Path) -> None:
    records = AccessRecords(tmp_path)
    records.note_certificate("ab12", "alice", NOW + HOUR, author="root", now=NOW)
    assert records.certificate("ab12", NOW).name == "alice"
    for serial, now in (("ab13", NOW), ("ab12", NOW + HOUR)):
        with pytest.raises(NotPermitted):
            records.certificate(serial, now)
    records.revoke("ab12", now=NOW)
    with pytest.raises(NotPermitted):
        records.certificate("ab12", NOW)
    with pytest.raises(NotFound):
        records.revoke("ffff", now=NOW)


def test_one_user_has_so_many_sessions_and_the_oldest_ends(tmp_path: Path) -> None:
    records = AccessRecords(tmp_path)
    texts = [
        records.create(
            "session", "bob", Role.VIEWER, author="oidc:1", lifetime=HOUR, now=NOW + timedelta(seconds=number)
        )[1]
        for number in range(SESSIONS_EACH + 1)
    ]
    later = NOW + timedelta(minutes=1)
    with pytest.raises(NotPermitted):
        records.verify(texts[0], later)
    assert all(records.verify(text, later) for text in texts[1:])


def test_the_table_is_bounded_and_what_expired_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAXIMUM_RECORDS == 4096
    monkeypatch.setattr("portico.administration.records.MAXIMUM_RECORDS", 3)
    records = AccessRecords(tmp_path)
    for number in range(3):
        make(records, f"token{number}")
    with pytest.raises(LimitReached) as full:
        make(records, "one more")
    assert full.value.code == "ACCESS_FULL"
    month = NOW + timedelta(days=30)
    records.create("token", "later", Role.VIEWER, author="root", lifetime=HOUR, now=month)
    assert [record.name for record in records.all(month)] == ["later"]


def test_bad_names_and_lifetimes_are_refused(tmp_path: Path) -> None:
    records = AccessRecords(tmp_path)
    for name in ("", " ", "a\nb", "x" * 129, "\ud800"):
        with pytest.raises(InvalidInput, match="name"):
            make(records, name)
    for lifetime in (timedelta(0), timedelta(days=4000)):
        with pytest.raises(InvalidInput) as refused:
            make(records, lifetime=lifetime)
        assert refused.value.code == "TOKEN_LIFETIME"


def test_a_damaged_file_lets_nobody_in_and_names_itself(tmp_path: Path) -> None:
    records = AccessRecords(tmp_path)
    _, text = make(records)
    whole = records.path.read_bytes()
    for damaged in (whole[:-20], b"[{}]", b"{}", b"\x00" * 50, b"[" * 5000):
        records.path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"access\.json") as refused:
            AccessRecords(tmp_path).verify(text, NOW)
        assert refused.value.resolution


def test_two_servers_agree_whoever_asks_whom_and_a_revocation_wins(tmp_path: Path) -> None:
    first, second = AccessRecords(tmp_path / "1"), AccessRecords(tmp_path / "2")
    record, text = make(first)
    make(second, "other")
    data = [item.as_data() for item in first.all(NOW)]
    assert second.take_over(json.loads(json.dumps(data)), NOW)
    assert not second.take_over(data, NOW)
    second.revoke(record.id, now=NOW)
    assert not second.take_over(data, NOW), "an old copy does not bring it back"
    assert first.take_over([item.as_data() for item in second.all(NOW)], NOW)
    assert first.digest(NOW) == second.digest(NOW)
    for records in (first, second):
        with pytest.raises(NotPermitted):
            records.verify(text, NOW)


@pytest.mark.parametrize("item", [None, {}, {"id": "x"}, "text", 5])
def test_malformed_records_of_another_server_change_nothing(item: object, tmp_path: Path) -> None:
    records = AccessRecords(tmp_path)
    make(records)
    before = records.digest(NOW)
    with pytest.raises(InvalidInput) as refused:
        records.take_over([item], NOW)
    assert refused.value.code == "RECORDS_MALFORMED"
    assert records.digest(NOW) == before


def test_a_cutoff_moves_forward_only(tmp_path: Path) -> None:
    records = AccessRecords(tmp_path)
    early = records.cut_off("https://x", "1", "bob", HOUR, author="root", now=NOW)
    records.cut_off("https://x", "1", "bob", HOUR, author="root", now=NOW + HOUR)
    records.take_over([early.as_data()], NOW)
    assert records.cutoff("https://x", "1") == NOW + HOUR
    assert records.cutoff("https://x", "2") is None
    assert records.cutoff("https://y", "1") is None


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 5))), min_size=1, max_size=6))
def test_merging_does_not_depend_on_the_order(items: list[tuple[int, int | None]]) -> None:
    def record(number: int, revoked: int | None) -> Record:
        return Record(
            "ab",
            "token",
            f"name{number}",
            "viewer",
            "0" * 64,
            NOW,
            NOW + HOUR,
            "root",
            NOW + timedelta(minutes=revoked) if revoked is not None else None,
        )

    def together(order: list[tuple[int, int | None]]) -> Record:
        found: Record | None = None
        for number, revoked in order:
            found = merge(found, record(number, revoked))
        assert found is not None
        return found

    assert together(items) == together(items[::-1]) == together(items + items)
