"""How often somebody may ask, and how long he waits after wrong credentials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.administration.limits import FREE_FAILURES, LONGEST_WAIT, BackOff, RateLimit, place


def test_a_burst_and_then_the_rate() -> None:
    limit = RateLimit(rate=2.0, burst=3.0)
    assert [limit.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limit.take("a", 0.0) == pytest.approx(0.5)
    assert limit.take("b", 0.0) == 0.0, "others do not wait for it"
    assert limit.take("a", 0.5) == 0.0
    assert limit.take("a", 0.5) > 0.0
    assert limit.refused == 2


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60))
def test_never_more_than_burst_and_rate_allow(times: list[float]) -> None:
    limit = RateLimit(rate=1.0, burst=4.0)
    let = [now for now in sorted(times) if limit.take("a", now) == 0.0]
    assert len(let) <= 4 + max(times) + 1e-6


def test_the_tables_are_bounded() -> None:
    limit, failures = RateLimit(1.0, 1.0, size=10), BackOff(size=10)
    for number in range(1000):
        limit.take(str(number), 0.0)
        failures.failed(str(number), 0.0)
    assert len(limit) == len(failures) == 10
    assert limit.forgotten == 990


def test_failed_logins_wait_longer_each_time_and_are_forgotten() -> None:
    failures = BackOff()
    for _ in range(FREE_FAILURES):
        failures.failed("a", 0.0)
        assert failures.wait("a", 0.0) == 0.0
    waits = []
    for _ in range(12):
        failures.failed("a", 0.0)
        waits.append(failures.wait("a", 0.0))
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_WAIT
    assert failures.wait("b", 0.0) == 0.0
    failures.failed("a", 5000.0)
    assert failures.wait("a", 5000.0) == 0.0
    failures.failed("c", 0.0)
    failures.succeeded("c")
    assert len(failures) == 1


def test_an_ipv6_host_is_its_network() -> None:
    assert place("2001:db8::1") == place("2001:db8::ffff:1") != place("2001:db8:0:1::1")
    assert place("::ffff:192.0.2.1") == place("192.0.2.1") == "192.0.2.1"
    assert place("fe80::1%eth0") == place("fe80::2")
    assert place("?") == "?"
