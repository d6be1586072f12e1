"""Both stores of settings keep the same promises; etcd's with a real etcd, and what only it can do wrong."""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
import ssl
import subprocess
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from portico.errors import InvalidInput, LimitReached, NotFound, PorticoError
from portico.settings.document import dump, load_data
from portico.settings.etcd.client import EtcdClient, EtcdUnavailable
from portico.settings.etcd.store import EtcdStore
from portico.settings.model import Settings
from portico.settings.store import SettingsChanged, SettingsStore, next_revision
from portico.settings.stores import Store
from tests.unit.settings.conftest import MINIMAL

NOW = datetime(2026, 5, 1, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("etcd_program")


def seal(content: bytes) -> Mapping[str, str]:
    return {"sum": hashlib.sha256(b"secret" + content).hexdigest()}


def check(content: bytes, found: Mapping[str, str]) -> bool:
    return found == seal(content)


class Etcd:
    """One etcd on a loopback address, without TLS: that is tested with the servers."""

    def __init__(self, directory: Path, *options: str) -> None:
        chosen = random.Random()
        self.url = f"http://127.{chosen.randrange(1, 255)}.{chosen.randrange(1, 255)}.9:2379"
        peer = self.url.replace("2379", "2380")
        urls = ["--listen-client-urls", self.url, "--advertise-client-urls", self.url, "--listen-peer-urls", peer]
        urls += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        self.process = subprocess.Popen(
            ["etcd", "--data-dir", directory, *urls, "--logger", "zap", "--log-level", "fatal", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.client = EtcdClient([self.url], ssl.create_default_context())
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.get("x")
                break
            except EtcdUnavailable:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.05)

    def stop(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    running = Etcd(tmp_path_factory.mktemp("etcd"))
    yield running
    running.stop()


_prefixes = iter(range(1_000_000))


def on(etcd: Etcd) -> EtcdStore:
    """A store below a prefix of its own."""
    return EtcdStore(etcd.client, f"/test/{next(_prefixes)}/", seal, check)


@pytest.fixture(params=["sqlite", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path, etcd: Etcd) -> Iterator[Store]:
    if request.param == "etcd":
        yield on(etcd)
        return
    opened = SettingsStore.open(tmp_path / "settings")
    yield opened
    opened.close()


def document(clients: int) -> Settings:
    return load_data({**MINIMAL, "ip_https": {"max_clients": clients}})


def fill(store: Store, count: int) -> None:
    for number in range(count):
        store.commit(document(100 + number), expected=number, author="anna", comment=f"number {number}", now=NOW)


def test_revisions_are_numbered_without_gaps_and_kept_as_they_were(store: Store) -> None:
    assert store.latest() is None
    fill(store, 3)
    latest = store.latest()
    assert latest is not None
    assert (latest.number, latest.author, latest.comment, latest.created) == (3, "anna", "number 2", NOW)
    assert latest.settings == document(102)
    assert [revision.number for revision in store.history(limit=2)] == [3, 2]
    assert [revision.number for revision in store.history(before=3)] == [2, 1]
    assert [revision.number for revision in store.after(1)] == [2, 3]
    assert store.get(2).settings == document(101)
    for number in (0, 4, -1, 10**15):
        with pytest.raises(NotFound):
            store.get(number)


def test_the_second_of_two_writers_is_told_the_difference(store: Store) -> None:
    fill(store, 2)
    with pytest.raises(SettingsChanged) as error:
        store.commit(document(9), expected=1, author="otto", now=NOW)
    assert error.value.difference is not None
    (change,) = error.value.difference.changes
    assert (change.path, change.before, change.after) == ("ip_https.max_clients", 100, 101)


def test_of_many_writers_at_once_one_wins(store: Store) -> None:
    fill(store, 1)

    def write(clients: int) -> bool:
        try:
            store.commit(document(clients), expected=1, author="many", now=NOW)
        except SettingsChanged:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(200, 216))) == 1
    latest = store.latest()
    assert latest is not None and latest.number == 2


def test_the_same_document_makes_no_revision(store: Store) -> None:
    fill(store, 1)
    assert store.commit(document(100), expected=1, author="otto", now=NOW).number == 1


def test_compaction_keeps_the_newest_and_their_numbers(store: Store) -> None:
    fill(store, 5)
    assert store.compact(2) == 3
    assert [revision.number for revision in store.history()] == [5, 4]
    assert store.commit(document(7), expected=5, author="anna", now=NOW).number == 6


def test_an_append_may_be_repeated_when_its_answer_was_lost(etcd: Etcd) -> None:
    store = on(etcd)
    fill(store, 1)
    first = store.latest()
    assert first is not None
    revision = next_revision(first, dump(document(5)), author="anna", comment="", now=NOW)
    head = (first.number, first.sha256)
    assert store.append(revision, head)
    assert store.append(revision, head), "it is the one that is there"
    assert not store.append(replace(revision, author="otto"), head), "that is somebody else's"


def test_a_revision_that_no_server_sealed_is_refused(etcd: Etcd) -> None:
    store = on(etcd)
    fill(store, 1)
    forger = EtcdStore(etcd.client, store.prefix, lambda content: {"sum": "forged"}, check)
    latest = store.latest()
    assert latest is not None
    forged = next_revision(latest, dump(document(5)), author="anna", comment="", now=NOW)
    assert forger.append(forged, (latest.number, latest.sha256))
    with pytest.raises(InvalidInput, match="no server of the cluster has sealed it"):
        store.latest()
    assert store.get(1).number == 1


@pytest.mark.parametrize(
    "value", [b"", b"x", zlib.compress(b"[]"), zlib.compress(b'{"content": "{}", "seal": 5}'), zlib.compress(b"0" * 9)]
)
def test_damaged_values_are_refused_with_what_to_do(etcd: Etcd, value: bytes) -> None:
    store = on(etcd)
    fill(store, 1)
    etcd.client.put(f"{store.prefix}revision/{1:016d}", value)
    with pytest.raises(InvalidInput) as error:
        store.latest()
    assert error.value.code == "REVISION_DAMAGED" and "portico cluster store recover" in error.value.resolution


def test_a_store_is_seeded_once(etcd: Etcd, tmp_path: Path) -> None:
    source = SettingsStore.open(tmp_path / "settings")
    for number in range(3):
        source.commit(document(100 + number), expected=number, author="anna", now=NOW)
    revisions = list(reversed(source.history()))
    store = on(etcd)
    store.seed(revisions)
    assert store.newest() == (3, revisions[-1].sha256)
    assert list(reversed(store.history())) == revisions
    with pytest.raises(InvalidInput) as error:
        store.seed(revisions)
    assert error.value.code == "STORE_NOT_EMPTY"
    store.clear()
    assert store.newest() is None and store.history() == []
    source.close()


def test_a_full_etcd_says_so_changes_nothing_and_can_be_compacted(tmp_path: Path) -> None:
    running = Etcd(tmp_path, "--quota-backend-bytes", str(2 << 20))
    try:
        store = on(running)
        noise = random.Random(1)

        def large(number: int) -> Any:
            text = f"# {noise.randbytes(150_000).hex()}\n"  # compresses to half
            return replace(next_revision(store.latest(), "x", author="a", comment="", now=NOW), text=text)

        fill(store, 1)
        filled: PorticoError | None = None
        for _ in range(40):
            before = store.newest()
            revision = large(0)
            revision = replace(revision, sha256=hashlib.sha256(revision.text.encode()).hexdigest())
            try:
                assert store.append(revision, before)
            except LimitReached as error:
                filled = error
                break
        assert filled is not None and filled.code == "STORE_FULL"
        assert "portico cluster store compact" in filled.resolution
        assert store.newest() == before
        assert store.compact(1) > 0
        newest = store.newest()
        assert newest is not None
        small = next_revision(store.latest(), dump(document(8)), author="anna", comment="", now=NOW)
        assert store.append(small, newest)
    finally:
        running.stop()


def test_a_document_that_is_too_large_is_refused_before_anything_is_stored(etcd: Etcd) -> None:
    store = on(etcd)
    text = random.Random(2).randbytes(1_500_000).hex()
    huge = next_revision(None, text, author="a", comment="", now=NOW)
    with pytest.raises(LimitReached) as error:
        store.append(huge, None)
    assert error.value.code == "STORE_TOO_LARGE"
    assert store.newest() is None


def test_an_etcd_that_is_gone_is_named_within_the_clients_time(tmp_path: Path) -> None:
    running = Etcd(tmp_path)
    store = on(running)
    running.process.kill()
    running.process.wait()
    with pytest.raises(EtcdUnavailable) as error:
        store.newest()
    assert running.url in error.value.why
    running.stop()
