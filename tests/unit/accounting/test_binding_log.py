from __future__ import annotations

import errno
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from portico.accounting import records
from portico.accounting.binding_log import BindingLog, files
from portico.accounting.owners import Owner

DAY = datetime(2026, 3, 14, 12, tzinfo=UTC).timestamp()
OWNER = Owner(7, "203.0.113.1:5", 'laptop"7', "2a")


class Clock:
    def __init__(self) -> None:
        self.now = DAY

    def __call__(self) -> float:
        return self.now


def line(port: int = 40123) -> bytes:
    return records.row(("open", DAY, "tcp", "fd00::c", 51000, "10.0.0.2", port), OWNER)


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for file in files(directory) for text in file.path.read_bytes().splitlines()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> BindingLog:
    return BindingLog(tmp_path / "log", kept_free=0, clock=clock)


def test_rows_are_objects_in_a_file_of_the_day_that_others_may_not_read(log: BindingLog) -> None:
    assert log.append([line()])
    (file,) = files(log.directory)
    assert file.path.name == "nat64-bindings-2026-03-14.jsonl"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert stat.S_IMODE(log.directory.stat().st_mode) == 0o750
    assert lines(log.directory) == [
        {
            "t": DAY,
            "event": "open",
            "protocol": "tcp",
            "client": "fd00::c",
            "client_port": 51000,
            "address": "10.0.0.2",
            "port": 40123,
            "name": 'laptop"7',
            "serial": "2a",
            "session": 7,
        }
    ]


def test_a_day_and_a_size_each_begin_a_file(tmp_path: Path, clock: Clock) -> None:
    log = BindingLog(tmp_path, kept_free=0, clock=clock, file_limit=3 * len(line()))
    for _ in range(7):
        assert log.append([line()])
    clock.now += 86_400
    assert log.append([line()])
    log.close()
    names = ["2026-03-14", "2026-03-14.1", "2026-03-14.2", "2026-03-15"]
    assert [file.path.name for file in files(tmp_path)] == [f"nat64-bindings-{name}.jsonl" for name in names]
    again = BindingLog(tmp_path, kept_free=0, clock=clock)
    assert again.append([line()])
    assert len(files(tmp_path)[-1].path.read_bytes().splitlines()) == 2, "a new process goes on in the same file"


def test_old_days_are_deleted_and_nothing_else(log: BindingLog, clock: Clock) -> None:
    log.append([line()])
    (log.directory / "nat64-bindings-2026-02-11.jsonl").write_text("")
    (log.directory / "nat64-bindings-2026-02-12.3.jsonl").write_text("")
    for name in ("notes.txt", "nat64-bindings-2026-13-01.jsonl", "nat64-bindings-2020-01-01.jsonl.gz"):
        (log.directory / name).write_text("")
    assert [path.name for path in log.prune(30)] == ["nat64-bindings-2026-02-11.jsonl"]
    clock.now += 31 * 86_400
    assert len(log.prune(30)) == 2
    assert len(list(log.directory.iterdir())) == 3


def test_half_a_line_of_a_power_cut_stays_alone(log: BindingLog, tmp_path: Path, clock: Clock) -> None:
    log.append([line()])
    log.close()
    path = files(log.directory)[0].path
    path.write_bytes(path.read_bytes() + b'{"t":1,"eve')
    BindingLog(log.directory, kept_free=0, clock=clock).append([line(7)])
    texts = path.read_bytes().splitlines()
    assert (records.parse(texts[1]), len(texts)) == (None, 3)


def test_a_full_disk_costs_rows_and_the_log_says_how_many(log: BindingLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([line(1)])
    real = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 20:
            return real(descriptor, bytes(data[:20]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert not log.append([line(2), line(3)])
    assert not log.append([line(4)])
    assert (log.lost, log.trouble) == (3, "No space left on device")
    monkeypatch.undo()
    log.lose(5, "the gateway had no room for them")
    assert log.append([line(5)])
    assert log.trouble is None
    found = lines(log.directory)
    assert [row.get("port") for row in found] == [1, None, None, 5], "no half line is left"
    assert [(row["mark"], row["rows"], row["why"]) for row in found[1:3]] == [
        ("lost", 3, "the disk is full"),
        ("lost", 5, "the gateway had no room for them"),
    ]
    assert (log.written, log.lost) == (2, 8)


def test_room_is_left_for_everything_else(tmp_path: Path, clock: Clock) -> None:
    log = BindingLog(tmp_path / "log", kept_free=1 << 60, clock=clock)
    assert not log.append([line()])
    assert log.lost == 1
    assert "left on the file system" in str(log.trouble)


def test_a_directory_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    log = BindingLog(tmp_path / "file", kept_free=0, clock=clock)
    assert not log.append([line()])
    assert log.lost == 1
    assert log.trouble
    assert log.status()["bytes"] == 0


def test_a_file_that_was_deleted_is_begun_anew(log: BindingLog) -> None:
    log.append([line(1)])
    files(log.directory)[0].path.unlink()
    log.append([line(2)])
    assert [row["port"] for row in lines(log.directory)] == [2]


def test_nothing_is_written_through_a_link(log: BindingLog, tmp_path: Path) -> None:
    log.directory.mkdir()
    (log.directory / "nat64-bindings-2026-03-14.jsonl").symlink_to(tmp_path / "target")
    assert not log.append([line()])
    assert not (tmp_path / "target").exists()
