"""Rows against a run: what was reached, beside what, and whether that is enough. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from statistics import median

from benchmarks.figures import FIGURES
from benchmarks.results import Run
from benchmarks.rows import Kind, Row


class Verdict(Enum):
    AIM = "aim reached"
    MUST = "reached"
    BELOW_AIM = "below the aim"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Reached:
    """One direction: the medians' relation, its spread over the rounds, and what stood against what."""

    figure: str
    value: float
    low: float
    high: float
    own: float
    beside: str | None
    other: float | None


@dataclass(frozen=True)
class Outcome:
    row: Row
    verdict: Verdict
    reached: tuple[Reached, ...]
    reason: str | None = None


def best(run: Run, subjects: tuple[str, ...], figure: str) -> str | None:
    """The subject with the best median; None when none was measured."""
    spreads = {subject: run.spread(subject, figure) for subject in subjects}
    medians = {subject: spread.median for subject, spread in spreads.items() if spread is not None}
    if not medians:
        return None
    choose = max if FIGURES[figure].more else min
    return choose(medians, key=lambda subject: medians[subject])


def _relation(kind: Kind, own: float, other: float | None) -> float:
    if kind is Kind.VALUE or other is None:
        return own
    return own - other if kind is Kind.DIFFERENCE else own / other


def _reach(row: Row, run: Run, figure: str, beside_figure: str) -> Reached | str:
    """One direction, or why it cannot be judged."""
    own = run.values(row.subject, figure)
    if not own:
        return f"{row.subject}: {run.failure(row.subject) or 'not part of this run'}"
    if not row.beside:
        values = list(own.values())
        return Reached(figure, median(values), min(values), max(values), median(values), None, None)
    beside = best(run, row.beside, beside_figure)
    if beside is None:
        reasons = [f"{subject}: {run.failure(subject) or 'not part of this run'}" for subject in row.beside]
        return "; ".join(reasons)
    others = run.values(beside, beside_figure)
    # Two figures of one subject: what tells them apart is the figure's name.
    name = FIGURES[beside_figure].title if beside == row.subject else beside
    value = _relation(row.kind, median(own.values()), median(others.values()))
    each = [_relation(row.kind, own[turn], others[turn]) for turn in own if turn in others] or [value]
    return Reached(figure, value, min(each), max(each), median(own.values()), name, median(others.values()))


def _within(row: Row, value: float, limit: float) -> bool:
    return value >= limit if row.at_least else value <= limit


def _verdict(row: Row, reached: list[Reached]) -> Verdict:
    def holds(limit: float) -> bool:
        return all(_within(row, one.value, limit) for one in reached)

    if row.must is not None and not holds(row.must):
        return Verdict.MISSED
    if row.aim is not None and holds(row.aim):
        return Verdict.AIM
    return Verdict.MUST if row.must is not None else Verdict.BELOW_AIM


def judge(row: Row, run: Run) -> Outcome:
    """Every direction must hold; one that was not measured makes the row not measured."""
    reached: list[Reached] = []
    for figure, beside_figure in row.pairs():
        one = _reach(row, run, figure, beside_figure)
        if isinstance(one, str):
            return Outcome(row, Verdict.NOT_MEASURED, (), one)
        reached.append(one)
    return Outcome(row, _verdict(row, reached), tuple(reached))
