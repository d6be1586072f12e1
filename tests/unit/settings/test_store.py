from __future__ import annotations

import sqlite3
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.errors import InvalidInput, NotFound, PorticoError, Unavailable
from portico.settings.database import Database
from portico.settings.document import load_data
from portico.settings.model import Settings
from portico.settings.store import APPLIED_NAME, DATABASE_NAME, SettingsChanged, SettingsStore

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def variant(data: dict[str, Any], port: int) -> Settings:
    return load_data({**data, "ip_https": {"port": port}})


@pytest.fixture
def store(tmp_path: Path) -> SettingsStore:
    return SettingsStore.open(tmp_path / "settings")


def fill(store: SettingsStore, data: dict[str, Any], count: int) -> None:
    for index in range(count):
        store.commit(variant(data, 443 + index), expected=index, author="ada", comment=f"step {index}", now=NOW)


def test_an_empty_store_has_no_revision(store: SettingsStore) -> None:
    assert store.latest() is None
    assert store.history() == []
    assert store.applied() is None
    assert not store.read_only


def test_revisions_are_numbered_and_keep_author_comment_and_time(store: SettingsStore, data: dict[str, Any]) -> None:
    revision = store.commit(variant(data, 443), expected=0, author="ada", comment="first\nline", now=NOW)
    assert (revision.number, revision.author, revision.comment, revision.created) == (1, "ada", "first line", NOW)
    assert store.latest() == revision
    assert store.get(1).settings == variant(data, 443)


def test_the_second_of_two_writers_is_told_what_the_first_changed(store: SettingsStore, data: dict[str, Any]) -> None:
    fill(store, data, 2)
    with pytest.raises(SettingsChanged) as caught:
        store.commit(variant(data, 9999), expected=1, author="bob", now=NOW)
    assert caught.value.newest is not None and caught.value.newest.number == 2
    assert caught.value.difference is not None
    assert [str(change) for change in caught.value.difference.changes] == ["~ ip_https.port: 443 -> 444"]
    assert len(store.history()) == 2


def test_compare_and_swap_holds_among_threads(store: SettingsStore, data: dict[str, Any]) -> None:
    outcomes: list[str] = []

    def write(port: int) -> None:
        try:
            store.commit(variant(data, port), expected=0, author=str(port), now=NOW)
            outcomes.append("stored")
        except SettingsChanged:
            outcomes.append("conflict")

    threads = [threading.Thread(target=write, args=(port,)) for port in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 7 + ["stored"]


def test_compare_and_swap_holds_among_processes_on_one_file(tmp_path: Path, data: dict[str, Any]) -> None:
    one, two = SettingsStore.open(tmp_path), SettingsStore.open(tmp_path)
    one.commit(variant(data, 1), expected=0, author="a", now=NOW)
    with pytest.raises(SettingsChanged):
        two.commit(variant(data, 2), expected=0, author="b", now=NOW)


def test_the_same_document_makes_no_new_revision(store: SettingsStore, data: dict[str, Any]) -> None:
    first = store.commit(variant(data, 443), expected=0, author="a", now=NOW)
    assert store.commit(variant(data, 443), expected=1, author="b", now=NOW) == first


def test_an_earlier_revision_is_restored_as_a_new_one(store: SettingsStore, data: dict[str, Any]) -> None:
    fill(store, data, 3)
    restored = store.restore(1, expected=3, author="ada", now=NOW + timedelta(days=1))
    assert restored.number == 4
    assert restored.comment == "restored revision 1"
    assert restored.settings == store.get(1).settings
    assert not store.compare(1, 4).changes


def test_history_is_paged_newest_first(store: SettingsStore, data: dict[str, Any]) -> None:
    fill(store, data, 5)
    assert [r.number for r in store.history(limit=2)] == [5, 4]
    assert [r.number for r in store.history(limit=9, before=4)] == [3, 2, 1]


@pytest.mark.parametrize("number", [0, -1, 7, 2**80])
def test_a_revision_that_does_not_exist_is_named(store: SettingsStore, data: dict[str, Any], number: int) -> None:
    with pytest.raises(NotFound, match=str(number)):
        store.get(number)


def test_files_are_for_their_owner_only(store: SettingsStore, data: dict[str, Any]) -> None:
    fill(store, data, 1)
    store.mark_applied(store.get(1))
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    for path in store.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_store_survives_a_restart(tmp_path: Path, data: dict[str, Any]) -> None:
    store = SettingsStore.open(tmp_path)
    fill(store, data, 2)
    store.mark_applied(store.get(1))
    store.close()
    again = SettingsStore.open(tmp_path)
    assert [r.number for r in again.history()] == [2, 1]
    assert again.applied() == again.get(1)


def damage_database(path: Path, how: str) -> None:
    content = path.read_bytes()
    damaged = {
        "garbage": b"\xa5" * len(content),
        "truncated": content[: len(content) // 2 - 100],
        "flipped": content[:4096] + bytes(b ^ 0xFF for b in content[4096:8192]) + content[8192:],
    }[how]
    path.write_bytes(damaged)


@pytest.mark.parametrize("how", ["garbage", "truncated", "flipped"])
def test_a_damaged_database_leaves_the_applied_settings_readable(
    tmp_path: Path, data: dict[str, Any], how: str
) -> None:
    store = SettingsStore.open(tmp_path)
    fill(store, data, 3)
    store.mark_applied(store.get(3))
    store.close()
    damage_database(tmp_path / DATABASE_NAME, how)

    store = SettingsStore.open(tmp_path)
    assert store.read_only
    assert store.damage is not None and DATABASE_NAME in str(store.damage)
    latest = store.latest()
    assert latest is not None and latest.settings == variant(data, 445)
    assert [r.number for r in store.history()] == [3]
    with pytest.raises(Unavailable, match="read-only") as caught:
        store.commit(variant(data, 1), expected=3, author="ada", now=NOW)
    assert caught.value.code == "STORE_READ_ONLY"

    aside = store.repair(NOW)
    assert aside is not None and aside.exists()
    assert not store.read_only
    assert store.commit(variant(data, 1), expected=3, author="ada", now=NOW).number == 4


def test_a_damaged_database_without_an_applied_document_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(InvalidInput, match=DATABASE_NAME) as caught:
        SettingsStore.open(tmp_path)
    assert caught.value.code == "DATABASE_CORRUPT"


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "edited", "garbage", "no header"])
def test_an_applied_document_that_cannot_be_trusted_is_not_used(tmp_path: Path, data: dict[str, Any], how: str) -> None:
    store = SettingsStore.open(tmp_path)
    fill(store, data, 1)
    store.mark_applied(store.get(1))
    path = tmp_path / APPLIED_NAME
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[:-20],
                "edited": content.replace(b"port: 443", b"port: 444"),
                "garbage": bytes(range(256)),
                "no header": content.partition(b"\n")[2],
            }[how]
        )
    assert store.applied() is None
    problem = store.applied_problem()
    assert problem is not None and APPLIED_NAME in str(problem)
    assert store.latest() == store.get(1)


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_in_the_applied_file_never_raise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    directory = tmp_path_factory.mktemp("store")
    (directory / APPLIED_NAME).write_bytes(b"# portico applied settings: " + content)
    assert SettingsStore(directory, None, None).applied() is None


def test_an_altered_revision_is_refused_by_its_number(tmp_path: Path, data: dict[str, Any]) -> None:
    store = SettingsStore.open(tmp_path)
    fill(store, data, 2)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("UPDATE revision SET document = 'x' WHERE number = 1")
    with pytest.raises(InvalidInput, match="revision 1") as caught:
        store.get(1)
    assert caught.value.code == "REVISION_DAMAGED"
    assert store.get(2).number == 2


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("CREATE TABLE revision (x)")
    with pytest.raises(InvalidInput, match="not one of Portico's"):
        SettingsStore.open(tmp_path)


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    SettingsStore.open(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(InvalidInput, match="newer Portico"):
        SettingsStore.open(tmp_path)


def test_a_copy_is_kept_before_a_migration_and_a_failed_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"

    def first(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE a (x)")

    def second(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE b (x)")
        raise sqlite3.OperationalError("disk full")

    Database.open(path, [first]).close()
    with pytest.raises(PorticoError, match="disk full"):
        Database.open(path, [first, second])
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
    copy = tmp_path / "x.sqlite.v1"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
