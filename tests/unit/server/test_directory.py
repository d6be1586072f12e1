"""Lists in pages: every entry once, a bounded amount of work for each page, however many entries there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from portico.certificates.listing import client_total, issued_page, token_page
from portico.certificates.store import CertificateStore, IssuedRecord, RevokedRecord, stamp
from portico.errors import InvalidInput
from portico.server.clients import ClientState
from portico.server.directory import Directory
from portico.server.users.grants import Grant, Grants

NOW = datetime.now(UTC)
SMALL, LARGE = 300, 6000


def filled(path: Path, count: int) -> CertificateStore:
    """A store with `count` clients: each third is revoked, each fifth has a second certificate."""
    store = CertificateStore.open(path)
    with store.transaction() as connection:
        for number in range(count):
            name = f"client{number:05}"
            for serial in (f"{number:x}a", f"{number:x}b")[: 2 if number % 5 == 0 else 1]:
                at = NOW - timedelta(days=1, seconds=number // 2)
                record = IssuedRecord(
                    "aa", serial, "client", name, at, NOW + timedelta(days=9), at, None, "", None, None
                )
                store.add_issued(connection, record)
                if number % 3 == 0:
                    store.add_revoked(connection, RevokedRecord("aa", serial, name, NOW, "unspecified", None))
            connection.execute(
                "INSERT INTO token (id, name, secret_sha256, created, expires, author) VALUES (?, ?, '', ?, ?, 'root')",
                (f"{number:x}", name, stamp(NOW - timedelta(seconds=number // 2)), stamp(NOW)),
            )
    return store


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> CertificateStore:
    return filled(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> CertificateStore:
    return filled(tmp_path_factory.mktemp("large"), LARGE)


def directory(store: CertificateStore | None, *connected: str, log: list[int] | None = None) -> Directory:
    async def sessions() -> list[dict[str, Any]]:
        if log is not None:
            log.append(1)
        return [
            {"session": number, "peer": name, "identity": {"subject": name, "serial": "1"}}
            for number, name in enumerate(connected, 1)
        ]

    return Directory(lambda: store, sessions, {"client00001": 1.0})


async def walk(found: Directory, limit: int, state: ClientState | None = None) -> list[tuple[str, ClientState]]:
    listed: list[tuple[str, ClientState]] = []
    after: str | None = None
    while True:
        page = await found.page(after=after, limit=limit, state=state)
        assert len(page.clients) <= limit
        listed += [(client.name, client.state) for client in page.clients]
        after = page.next
        if after is None:
            return listed


@pytest.mark.parametrize("limit", [1, 7, 299, 300, 301, 10_000])
def test_pages_together_are_the_list_whatever_their_size(small: CertificateStore, limit: int) -> None:
    asked: list[int] = []
    found = directory(small, "client00200", "stranger", "client00007", "client00200", log=asked)
    listed = asyncio.run(walk(found, limit))
    names = [name for name, _ in listed]
    everyone = [f"client{number:05}" for number in range(SMALL)]
    assert names[:3] == ["client00007", "client00200", "stranger"]
    assert names[3:] == [name for name in everyone if name not in names[:3]]
    assert asyncio.run(found.page(limit=1)).total == SMALL + 1
    states = dict(listed)
    assert states["client00200"] is states["stranger"] is ClientState.CONNECTED
    assert (states["client00001"], states["client00002"], states["client00003"]) == (
        ClientState.OFFLINE, ClientState.NEVER_SEEN, ClientState.REVOKED,
    )  # fmt: skip
    assert len(asked) == 2, "only the first page of a walk asks the gateways"


@pytest.mark.parametrize("limit", [1, 40, 10_000])
def test_a_list_of_one_state_has_all_of_it_and_nothing_else(small: CertificateStore, limit: int) -> None:
    for state, count in ((ClientState.REVOKED, 99), (ClientState.CONNECTED, 2), (ClientState.OFFLINE, 1)):
        listed = asyncio.run(walk(directory(small, "client00000", "stranger"), limit, state))
        assert len(listed) == len({name for name, _ in listed}) == count
        assert {found for _, found in listed} == {state}


def test_clients_are_listed_while_certificates_cannot_be_read() -> None:
    assert asyncio.run(walk(directory(None, "b", "a"), 1)) == [
        ("a", ClientState.CONNECTED),
        ("b", ClientState.CONNECTED),
    ]


def test_a_client_that_enrols_during_a_walk_repeats_nobody(tmp_path: Path) -> None:
    store = filled(tmp_path, 20)
    found = directory(store)
    first = asyncio.run(found.page(limit=10))
    with store.transaction() as connection:
        for serial, name in (("ff1", "client00004x"), ("ff2", "client00015x")):
            record = IssuedRecord("aa", serial, "client", name, NOW, NOW, NOW, None, "", None, None)
            store.add_issued(connection, record)
    second = asyncio.run(found.page(after=first.next, limit=100))
    names = [client.name for client in (*first.clients, *second.clients)]
    assert len(set(names)) == len(names) == 21
    assert "client00015x" in names
    assert second.total == client_total(store) == 22


def test_certificates_and_tokens_come_in_pages(small: CertificateStore) -> None:
    for page, count in (
        (lambda after: issued_page(small, after=after, limit=7), SMALL + SMALL // 5),
        (lambda after: token_page(small, after=after, limit=7), SMALL),
        (lambda after: issued_page(small, name="client00005", after=after, limit=1), 2),
    ):
        found: list[Any] = []
        rows, after = page(None)
        found += rows
        while after is not None:
            rows, after = page(after)
            found += rows
        assert len(found) == count
        times = [getattr(row, "issued", None) or row.created for row in found]
        assert times == sorted(times, reverse=True)
        assert len({getattr(row, "serial", None) or row.id for row in found}) == count


def test_users_come_in_pages() -> None:
    grants = Grants(
        Grant(f"{number:02}", "u", "oidc", "aa", "m", "1", "::1", float(number // 3), 1e12) for number in range(30)
    )
    found, after = grants.page(None, 4)
    while after is not None:
        more, after = grants.page(after, 4)
        found += more
    assert found == grants.all()


@pytest.mark.parametrize("cursor", ["", "x", "x:y", "2026-01-01/1", "nan/", "1e999999x/1"])
def test_a_cursor_of_something_else_is_refused(small: CertificateStore, cursor: str) -> None:
    for ask in (
        lambda: asyncio.run(directory(small).page(after=cursor, limit=1)),
        lambda: issued_page(small, after=cursor, limit=1),
        lambda: token_page(small, after=cursor, limit=1),
        lambda: Grants().page(cursor.replace("nan/", "n/"), 1),
    ):
        with pytest.raises(InvalidInput) as refused:
            ask()
        assert refused.value.code == "CURSOR_INVALID"


def steps(store: CertificateStore, work: Callable[[], object]) -> int:
    """Instructions of SQLite's machine, in tens: the same on every computer."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with store.read() as connection:
        connection.set_progress_handler(tick, 10)
        try:
            work()
        finally:
            connection.set_progress_handler(None, 0)
    return count


def page_of_clients(store: CertificateStore, *connected: str, **asked: Any) -> None:
    """The page as it is made, without the thread: the store's lock is held here."""
    found = directory(store, *connected)
    sessions = {name: [{"peer": name, "identity": {"subject": name}}] for name in connected}
    part, _, name = str(asked.get("after", "connected:")).partition(":")
    found._page(found._gather(sessions), part, name, asked.get("limit", 50), asked.get("state"))


@pytest.mark.parametrize(
    "work",
    [
        lambda store: page_of_clients(store, "client00003", "client00250", "stranger"),
        lambda store: page_of_clients(store, after="enrolled:client00199"),
        lambda store: issued_page(store, limit=50),
        lambda store: issued_page(store, after=issued_page(store, limit=150)[1], limit=50),
        lambda store: issued_page(store, serial="5a", limit=50),
        lambda store: issued_page(store, name="client00005", limit=50),
        lambda store: token_page(store, after=token_page(store, limit=150)[1], limit=50),
        lambda store: store.issued(kind="client", serial="5a", issuer_sha256="aa"),
        lambda store: store.token("5"),
    ],
)
def test_a_page_costs_the_same_with_twenty_times_the_entries(
    small: CertificateStore, large: CertificateStore, work: Callable[[CertificateStore], object]
) -> None:
    few, many = steps(small, lambda: work(small)), steps(large, lambda: work(large))
    assert many <= 1.1 * few + 20
    assert many < 2500, "a page of fifty reads what it shows"


def test_a_page_of_a_rare_state_looks_at_a_bounded_number_of_clients(large: CertificateStore) -> None:
    every = steps(large, lambda: page_of_clients(large, state=ClientState.EXPIRED))
    more = steps(large, lambda: page_of_clients(large, state=ClientState.EXPIRED, after="enrolled:client03000"))
    assert abs(every - more) < 0.02 * every, "it stops after a thousand names"
