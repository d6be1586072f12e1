"""Two runs side by side, for work on hot paths. Pure."""

from __future__ import annotations

from benchmarks.figures import FIGURES
from benchmarks.report import number
from benchmarks.results import Run, Spread
from benchmarks.rows import ROWS
from benchmarks.verdict import judge


def change(before: float, after: float) -> str:
    """In percent of what it was."""
    return "-" if before == 0 else f"{(after / before - 1) * 100:+.1f} %"


def sense(before: Spread, after: Spread, more: bool) -> str:
    """Better or worse only when no round of one run reached into the range of the other."""
    if after.low > before.high:
        return "better" if more else "worse"
    if after.high < before.low:
        return "worse" if more else "better"
    return "within the spread"


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def compare(before: Run, after: Run) -> str:
    """The rows' ratios, which a busy machine disturbs least, then every figure that both runs have."""
    ratios = []
    for row in ROWS:
        pairs = zip(judge(row, before).reached, judge(row, after).reached, strict=False)
        for old, new in pairs:
            spreads = (Spread(old.value, old.low, old.high, 0), Spread(new.value, new.low, new.high, 0))
            title = f"{row.title} ({FIGURES[old.figure].title})"
            ratios.append(
                [
                    title,
                    number(old.value),
                    number(new.value),
                    change(old.value, new.value),
                    sense(*spreads, row.at_least),
                ]
            )
    figures = []
    for subject in before.wanted:
        for name, figure in FIGURES.items():
            old_spread, new_spread = before.spread(subject, name), after.spread(subject, name)
            if old_spread is None or new_spread is None:
                continue
            figures.append([
                f"{subject}: {figure.title}", figure.text(old_spread.median), figure.text(new_spread.median),
                change(old_spread.median, new_spread.median), sense(old_spread, new_spread, figure.more),
            ])  # fmt: skip
    if not figures:
        return "The two runs have no figure in common."
    head = ["before", "after", "change", ""]
    parts = [_table(["demand", *head], ratios)] if ratios else []
    return "\n\n".join([*parts, _table(["figure", *head], figures)])
