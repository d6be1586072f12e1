from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portico.accounting import binding_search, records
from portico.accounting.binding_search import Interval, Wanted, search
from portico.accounting.owners import Owner
from portico.errors import LimitReached

NAME = "nat64-bindings-1970-01-01.jsonl"


def row(event: str, at: float, port: int = 40123, client: str = "fd00::c", **other: Any) -> bytes:
    protocol, name = other.get("protocol", "tcp"), other.get("name", "laptop7")
    owner = Owner(1, "peer", name, "2a")
    return records.row((event, at, protocol, client, 51000, "10.0.0.2", port), owner, static=other.get("static", False))


def written(directory: Path, *lines: bytes, name: str = NAME) -> Path:
    (directory / name).write_bytes(b"".join(lines))
    return directory


def who(directory: Path, at: float, **asked: Any) -> list[Interval]:
    return search(directory, Wanted(at, at, **asked)).intervals


def test_who_had_a_port_at_a_time(tmp_path: Path) -> None:
    written(
        tmp_path,
        records.mark("on", 0.0),
        row("open", 10.0),
        row("open", 11.0, port=40124, client="fd00::d", name="other"),
        row("close", 20.0),
        row("open", 30.0, client="fd00::d", name="other"),
    )
    asked = {"address": "10.0.0.2", "port": 40123, "protocol": "tcp"}
    (found,) = who(tmp_path, 15.0, **asked)
    assert (found.name, found.client, found.client_port, found.serial) == ("laptop7", "fd00::c", 51000, "2a")
    assert (found.opened, found.closed, found.end) == (10.0, 20.0, "closed")
    assert who(tmp_path, 25.0, **asked) == []
    (found,) = who(tmp_path, 31.0, **asked)
    assert (found.name, found.opened, found.closed, found.end) == ("other", 30.0, None, "open")
    assert who(tmp_path, 15.0, address="10.0.0.3") == []
    assert who(tmp_path, 15.0, port=40123, protocol="udp") == []
    assert [i.port for i in who(tmp_path, 15.0, client="fd00::d")] == [40124]
    assert [i.port for i in who(tmp_path, 15.0, name="laptop7")] == [40123]
    assert len(search(tmp_path, Wanted(0.0, 99.0)).intervals) == 3


def test_a_client_port_is_not_taken_for_the_port(tmp_path: Path) -> None:
    written(tmp_path, row("open", 1.0))
    assert who(tmp_path, 2.0, port=51000) == []
    assert who(tmp_path, 2.0, port=4012) == []


def test_marks_end_what_was_open(tmp_path: Path) -> None:
    written(
        tmp_path,
        row("open", 1.0),
        records.mark("start", 2.0),
        row("open", 3.0),
        records.mark("off", 4.0),
        records.mark("on", 6.0),
        row("held", 6.0),
        row("close", 7.0),
        row("open", 8.0),
        records.mark("stop", 9.0),
    )
    found = search(tmp_path, Wanted(0.0, 99.0, port=40123)).intervals
    assert [(i.opened, i.closed, i.end) for i in found] == [
        (None, 7.0, "closed"),
        (1.0, 2.0, "restarted"),
        (3.0, 4.0, "logging off"),
        (8.0, 9.0, "stopped"),
    ]


def test_rows_that_are_missing_are_told_and_survived(tmp_path: Path) -> None:
    written(
        tmp_path,
        row("close", 5.0),
        records.mark("lost", 6.0, rows=12, why="the disk is full"),
        row("open", 7.0),
        b'{"t":7.5,"event":"open"\n',
        b"garbage\n",
        row("open", 8.0, client="fd00::e"),
    )
    found = search(tmp_path, Wanted(0.0, 10.0, port=40123))
    assert found.lost == 12
    assert [(i.client, i.opened, i.closed, i.end) for i in found.intervals] == [
        ("fd00::c", None, 5.0, "closed"),
        ("fd00::c", 7.0, 8.0, "overwritten"),
        ("fd00::e", 8.0, None, "open"),
    ]
    assert search(tmp_path, Wanted(200.0, 300.0, port=40123)).lost == 0


def test_files_are_read_in_their_order(tmp_path: Path) -> None:
    written(tmp_path, row("close", 30.0), name="nat64-bindings-1970-01-02.jsonl")
    written(tmp_path, row("open", 20.0, port=7), name="nat64-bindings-1970-01-01.10.jsonl")
    written(tmp_path, row("open", 10.0), name="nat64-bindings-1970-01-01.2.jsonl")
    written(tmp_path, name="nat64-bindings-1969-12-31.jsonl")
    (found,) = who(tmp_path, 15.0, port=40123)
    assert (found.opened, found.closed) == (10.0, 30.0)
    assert search(tmp_path, Wanted(0.0, 99.0)).covers == 10.0


def test_no_log_says_nothing(tmp_path: Path) -> None:
    found = search(tmp_path / "none", Wanted(0.0, 1.0))
    assert (found.intervals, found.lost, found.covers) == ([], 0, None)


def test_a_search_that_finds_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding_search, "MAXIMUM_OPEN", 3)
    written(tmp_path, *(row("open", 1.0, port=port) for port in range(100, 110)))
    with pytest.raises(LimitReached, match="too much"):
        search(tmp_path, Wanted(0.0, 9.0))
    assert len(who(tmp_path, 2.0, port=104)) == 1


def test_static_bindings_are_marked(tmp_path: Path) -> None:
    written(tmp_path, row("open", 1.0, static=True, name=None))
    (found,) = who(tmp_path, 2.0, port=40123)
    assert (found.static, found.name) == (True, None)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_the_search_agrees_with_a_plain_replay(seed: int) -> None:
    """Against a model that keeps the whole history of every port in lists; over several days, so that files are left
    out wherever they may be.
    """
    chosen = random.Random(seed)
    step = chosen.choice([600, 3600, 20_000])
    alive: dict[int, tuple[str, float]] = {}
    history: list[tuple[int, str, float, float | None]] = []
    days: dict[int, list[bytes]] = {}
    for number in range(1, 80):
        at = float(number * step)
        lines = days.setdefault(int(at // 86_400), [])
        port, client = chosen.choice([7, 70, 700]), f"fd00::{chosen.randrange(3) + 1}"
        if chosen.random() < 0.03:
            lines.append(records.mark("start", at))
            history += [(p, c, since, at) for p, (c, since) in alive.items()]
            alive.clear()
        elif port in alive:
            client, since = alive.pop(port)
            history.append((port, client, since, at))
            lines.append(row("close", at, port=port, client=client))
        else:
            alive[port] = (client, at)
            lines.append(row("open", at, port=port, client=client))
    history += [(p, c, since, None) for p, (c, since) in alive.items()]
    with tempfile.TemporaryDirectory() as directory:
        for day, lines in days.items():
            name = f"nat64-bindings-{date(1970, 1, 1) + timedelta(days=day)}.jsonl"
            written(Path(directory), *lines, name=name)
        for port in (7, 70, 700):
            start = float(chosen.randrange(80) * step)
            end = start + chosen.choice([0, 60, step, 5 * step])
            expected = sorted(
                (c, since, until)
                for p, c, since, until in history
                if p == port and since <= end and (until is None or until >= start)
            )
            for asked in ({}, {"address": "10.0.0.2"}, {"address": "10.0.0.2", "protocol": "tcp"}):
                found = search(Path(directory), Wanted(start, end, port=port, **asked)).intervals
                assert sorted((i.client, i.opened or 0.0, i.closed) for i in found) == expected


def test_only_files_that_can_matter_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(1, 29):
        at = (date(2026, 2, day) - date(1970, 1, 1)).days * 86_400.0 + 100
        lines = [row("open", at + 1), row("close", at + 2), row("open", at + 1, port=9)]
        written(tmp_path, *lines, name=f"nat64-bindings-2026-02-{day:02}.jsonl")
    read: list[str] = []
    real = binding_search._rows

    def rows(path: Path, needle: bytes | None) -> Iterator[Mapping[str, Any]]:
        if needle is not None:
            read.append(path.name[15:25])
        return real(path, needle)

    monkeypatch.setattr(binding_search, "_rows", rows)
    noon = (date(2026, 2, 14) - date(1970, 1, 1)).days * 86_400.0 + 43_200
    assert who(tmp_path, noon, address="10.0.0.2", port=40123, protocol="tcp") == []
    assert set(read) == {"2026-02-14"}
