"""The numbers of a server's starts only go up."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from portico.server.balancer.boots import BOOT_NAME, Boots

DAMAGED = [b"", b"{", b"[]", b"{}", b'{"boot": "x"}', b'{"boot": -1}', b'{"boot": 9223372036854775808}', b"\xff\xfe"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / BOOT_NAME


def test_a_start_has_the_time_in_milliseconds(path: Path) -> None:
    assert Boots(path, lambda: 1_700_000_000.25).next() == 1_700_000_000_250


def test_a_clock_that_went_back_makes_no_start_older_than_any_before(path: Path) -> None:
    times = iter([2000.0, 1000.0, 1000.0, 3000.0, 0.0])
    numbers = [Boots(path, lambda: next(times)).next() for _ in range(5)]
    assert numbers == [2_000_000, 2_000_001, 2_000_002, 3_000_000, 3_000_001]


def test_two_starts_within_a_millisecond_differ(path: Path) -> None:
    boots = Boots(path, lambda: 5.0)
    assert (boots.next(), boots.next()) == (5000, 5001)


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_file_is_said_and_replaced(path: Path, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    path.write_bytes(data)
    assert Boots(path, lambda: 7.0).next() == 7000
    assert str(path) in caplog.text
    assert Boots(path, lambda: 1.0).next() == 7001


def test_a_full_disk_is_said_and_this_agent_counts_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    times = iter([9.0, 1.0])
    boots = Boots(tmp_path / "missing" / BOOT_NAME, lambda: next(times))
    with caplog.at_level(logging.ERROR):
        assert (boots.next(), boots.next()) == (9000, 9001)
    assert "was not kept" in caplog.text
