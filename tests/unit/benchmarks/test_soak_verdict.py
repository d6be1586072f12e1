"""The verdict of a soak, on made-up samples."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.soak.verdict import judge, trend

DONE = {
    "bulk_rounds": 9, "dns_answered": 99, "garbage": 9, "waves": 9, "revocations": 9, "settings_applied": 9,
}  # fmt: skip


def samples(gateway_kib: Any = lambda _: 100_000, impossible: int = 0, pid: int = 7) -> list[dict[str, Any]]:
    return [
        {
            "at": 1000.0 + second,
            "gateway": {"pid": pid, "anonymous_kib": gateway_kib(second), "descriptors": 1000, "threads": 5},
            "agent": {"pid": 6, "anonymous_kib": 60_000, "descriptors": 30, "threads": 6 + second // 1000},
            "counters": {"impossible.impossible_panic": impossible if second else 0},
        }
        for second in range(0, 3600, 10)
    ]


def diary(**changes: Any) -> dict[str, Any]:
    return {"done": DONE, "unexplained": {}, "explained": 5, "problems": [], "after": {"registry": 1}, **changes}


def bad(found: list[Any]) -> list[str]:
    return [finding.text for finding in found if not finding.good]


def test_a_quiet_hour_passes() -> None:
    assert bad(judge(samples(), diary())) == []


def test_memory_may_settle_and_swing_but_not_grow() -> None:
    def settles(second: int) -> int:
        return 80_000 + 20_000 * min(second, 500) // 500 + (3_000 if second % 70 == 0 else 0)

    assert bad(judge(samples(settles), diary())) == []
    grown = bad(judge(samples(lambda second: 100_000 + 3 * second), diary()))
    assert len(grown) == 1 and "gateway: memory" in grown[0]


@pytest.mark.parametrize(
    ("changed", "told", "word"),
    [
        ({"impossible": 1}, {}, "impossible_panic"),
        ({}, {"unexplained": {"idle: lost, closed by the server": 2}}, "without a reason"),
        ({}, {"after": {"registry": 12}}, "left in tables"),
        ({}, {"after": None}, "not known what was left"),
        ({}, {"done": {**DONE, "waves": 0}}, "waves: 0"),
        ({}, {"problems": ["something"]}, "something"),
        ({}, {"done": {**DONE, "dns_unanswered": 50}}, "without an answer"),
    ],
)
def test_each_fault_is_named(changed: dict[str, Any], told: dict[str, Any], word: str) -> None:
    found = bad(judge(samples(**changed), diary(**told)))
    assert len(found) == 1 and word in found[0], found


def test_a_successor_of_the_gateway_is_noticed() -> None:
    found = bad(judge([*samples(), *samples(pid=8)], diary()))
    assert "gateway: pid 7, 8" in found


def test_too_few_samples_are_no_verdict() -> None:
    assert bad(judge(samples()[:3], diary())) == ["only 3 samples: the soak was too short for a verdict"]


def test_trend_is_robust() -> None:
    line = [(float(x), 2.0 * x) for x in range(20)]
    assert trend(line) == 2.0
    assert trend([*line[:10], (10.0, 1e9), *line[11:]]) == pytest.approx(2.0, rel=0.2)
    assert trend([]) == 0.0
