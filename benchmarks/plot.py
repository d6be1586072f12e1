"""Bulk throughput of every tunnel as bars, with the limits that the rows set."""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import Run
from benchmarks.rows import BULK, PLAIN, ROWS, Kind
from benchmarks.verdict import best

WIDTH = 0.36
LIMITS = (("must", "#b03030", "solid"), ("aim", "#e08a1e", "dashed"))
COLOURS = {"up": "#2f6f9f", "down": "#9fc5e0"}


def limits(run: Run, subject: str, figure: str) -> tuple[float | None, float | None]:
    """Gbit/s that this subject must and should reach: the highest that a row asks of it."""
    must: list[float] = []
    aim: list[float] = []
    for row in ROWS:
        if row.subject != subject or figure not in row.figures or row.kind is not Kind.RATIO:
            continue
        beside = best(run, row.beside, figure)
        spread = run.spread(beside, figure) if beside else None
        if spread is not None:
            must += [row.must * spread.median] if row.must is not None else []
            aim += [row.aim * spread.median] if row.aim is not None else []
    return max(must, default=None), max(aim, default=None)


def plot(run: Run, file: Path) -> None:
    """Writes an SVG; the same run gives the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    # No random element ids.
    mpl.rcParams["svg.hashsalt"] = "portico"
    from matplotlib import pyplot

    names = [name for name in run.wanted if name != PLAIN and any(run.values(name, figure) for figure in BULK)]
    figure, axes = pyplot.subplots(figsize=(10, 0.62 * len(names) + 1.6))
    for place, direction in ((-WIDTH / 2, "up"), (WIDTH / 2, "down")):
        spreads = [run.spread(name, direction) for name in names]
        values = [spread.median if spread else 0.0 for spread in spreads]
        at = [index + place for index in range(len(names))]
        bars = axes.barh(at, values, WIDTH, label=direction, color=COLOURS[direction])
        axes.bar_label(bars, [f"{value:.2f}" if value else "failed" for value in values], padding=3, fontsize=8)
        marks = [limits(run, name, direction) for name in names]
        for which, (label, colour, style) in enumerate(LIMITS):
            found = [(mark[which] or 0.0, y) for mark, y in zip(marks, at, strict=True) if mark[which] is not None]
            for value, y in found:
                axes.plot([value, value], [y - WIDTH / 2, y + WIDTH / 2], color=colour, linestyle=style, linewidth=1.8)
            if found and direction == "down":
                axes.plot([], [], color=colour, linestyle=style, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("Gbit/s, one TCP stream; client, gateway and server share the machine's cores")
    axes.margins(x=0.08)
    axes.legend(loc="center right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
