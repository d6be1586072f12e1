"""Rows against figures."""

from __future__ import annotations

import pytest

from benchmarks.rows import KEYS, OWN, PEERS, PLAIN, ROWS, Kind, Row, needed, selected
from benchmarks.subjects import SUBJECTS
from benchmarks.verdict import Verdict, judge
from tests.unit.benchmarks.conftest import MakeRun

RATIO = Row("bulk", "bulk", OWN, ("up", "down"), ("a", "b"), Kind.RATIO, 2, 4)


def test_the_median_is_compared_with_the_best_of_each_direction(make_run: MakeRun) -> None:
    run = make_run({
        OWN: [{"up": 6, "down": 9}, {"up": 8, "down": 9}, {"up": 100, "down": 9}],
        "a": [{"up": 2, "down": 1}, {"up": 2, "down": 1}, {"up": 2, "down": 1}],
        "b": [{"up": 1, "down": 3}, {"up": 1, "down": 3}, {"up": 1, "down": 3}],
    })  # fmt: skip
    outcome = judge(RATIO, run)
    up, down = outcome.reached
    assert (up.value, up.low, up.high, up.beside, up.own, up.other) == (4, 3, 50, "a", 8, 2)
    assert (down.value, down.beside) == (3, "b")
    assert outcome.verdict is Verdict.MUST


@pytest.mark.parametrize(
    ("up", "down", "verdict"),
    [(4, 4, Verdict.AIM), (4, 3, Verdict.MUST), (2, 2, Verdict.MUST), (9, 1.9, Verdict.MISSED)],
)
def test_the_worse_direction_decides(make_run: MakeRun, up: float, down: float, verdict: Verdict) -> None:
    run = make_run({OWN: [{"up": up, "down": down}], "a": [{"up": 1, "down": 1}]})
    assert judge(RATIO, run).verdict is verdict


def test_less_can_be_better(make_run: MakeRun) -> None:
    row = Row("cpu", "cpu", OWN, ("cpu_per_gb",), ("a", "b"), Kind.RATIO, 1 / 3, 1 / 6, at_least=False)
    turns: dict[str, list[dict[str, float]]] = {"a": [{"cpu_per_gb": 3.0}], "b": [{"cpu_per_gb": 9.0}]}
    best = judge(row, make_run({OWN: [{"cpu_per_gb": 1.0}], **turns}))
    assert (best.verdict, best.reached[0].beside) == (Verdict.MUST, "a")
    assert judge(row, make_run({OWN: [{"cpu_per_gb": 1.1}], **turns})).verdict is Verdict.MISSED


def test_differences_and_values(make_run: MakeRun) -> None:
    added = Row("ping", "ping", OWN, ("ping",), (PLAIN,), Kind.DIFFERENCE, 0.3, 0.15, at_least=False)
    run = make_run({OWN: [{"ping": 0.25}], PLAIN: [{"ping": 0.05}]})
    assert judge(added, run).reached[0].value == pytest.approx(0.2)
    assert judge(added, run).verdict is Verdict.MUST
    alone = Row("memory", "memory", "idle", ("tunnel_kib",), (), Kind.VALUE, 16, 8, at_least=False)
    assert judge(alone, make_run({"idle": [{"tunnel_kib": 7.5}]})).verdict is Verdict.AIM


def test_an_aim_without_a_must(make_run: MakeRun) -> None:
    row = Row("small", "small", OWN, ("up",), (PLAIN,), Kind.RATIO, None, 0.9)
    assert judge(row, make_run({OWN: [{"up": 8}], PLAIN: [{"up": 10}]})).verdict is Verdict.BELOW_AIM


def test_what_was_not_measured_says_why(make_run: MakeRun) -> None:
    run = make_run({OWN: [{"up": 1, "down": 1}], "a": ["no such program"], "b": ["it does not start"]})
    outcome = judge(RATIO, run)
    assert outcome.verdict is Verdict.NOT_MEASURED
    assert outcome.reason == "a: no such program; b: it does not start"
    assert judge(RATIO, make_run({"a": [{"up": 1, "down": 1}]})).reason == f"{OWN}: not part of this run"


def test_a_peer_that_failed_leaves_the_others(make_run: MakeRun) -> None:
    run = make_run({OWN: [{"up": 4, "down": 4}], "a": ["gone"], "b": [{"up": 1, "down": 2}]})
    outcome = judge(RATIO, run)
    assert [one.beside for one in outcome.reached] == ["b", "b"]
    assert outcome.verdict is Verdict.MUST


def test_only_rounds_that_both_have_make_the_range(make_run: MakeRun) -> None:
    run = make_run({OWN: [{"up": 4, "down": 4}, {"up": 6, "down": 6}], "a": ["late", {"up": 2, "down": 2}]})
    assert (judge(RATIO, run).reached[0].low, judge(RATIO, run).reached[0].high) == (3, 3)


def test_two_figures_of_one_subject(make_run: MakeRun) -> None:
    row = selected(["handshakes"])[0]
    run = make_run({row.subject: [{"handshakes": 800, "library_handshakes": 1000}]})
    assert judge(row, run).reached[0].beside == "TLS library alone"
    assert judge(row, run).verdict is Verdict.MUST


def test_every_row_can_be_measured() -> None:
    for subject, figures in needed(ROWS).items():
        if subject not in PEERS:
            assert figures <= SUBJECTS[subject].figures, subject


def test_rows_are_selected_by_key() -> None:
    assert selected([]) == ROWS
    assert {row.key for row in selected(["ping", "dns64"])} == {"ping", "dns64"}
    with pytest.raises(ValueError, match="no row is called pings: there are bulk"):
        selected(["pings"])
    assert set(needed(selected(["ping"]))) == {OWN, PLAIN}
    assert len(KEYS) == len(set(KEYS))
