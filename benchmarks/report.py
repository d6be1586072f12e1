"""A run as tables, written into docs/performance.md between two markers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import FIGURES
from benchmarks.results import Run
from benchmarks.rows import ROWS, Kind, Row
from benchmarks.verdict import Outcome, Reached, Verdict, judge

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PLOT = "performance.svg"

_TABLES = (
    ("Tunnels and NAT64", ("up", "down", "small_up", "small_down", "ping", "cpu_per_gb")),
    ("A saturated line of 100 Mbit/s", ("line_up", "line_ping_up", "line_down", "line_ping_down")),
    (
        "Set-up, memory, names",
        (
            "handshakes",
            "tunnels",
            "known_tunnels",
            "library_handshakes",
            "same_cipher",
            "tunnel_kib",
            "answers",
            "answers_per_core",
        ),
    ),
    (
        "A cluster in trouble: p99 of its clients back again",
        ("back_power", "back_gateway", "back_agent", "back_frozen", "back_cut_out", "back_cut_in", "deaf_s"),
    ),
    ("Settings of 32 servers", ("change_s", "start_s")),
    (
        "The load-balancing filter",
        ("filtered", "unfiltered", "filtered_small", "unfiltered_small", "small_of_2", "small_of_8", "small_of_32"),
    ),
)


def number(value: float) -> str:
    """Three significant digits, or whole numbers when they are large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def limit(row: Row, value: float | None) -> str:
    """A must or an aim, for people."""
    if value is None:
        return "-"
    sign = "≥" if row.at_least else "≤"
    return f"{sign} {number(value)}{' ×' if row.kind is Kind.RATIO else ''}"


def _reached(one: Reached, named: bool) -> str:
    last = one.figure.rsplit("_", 1)[-1]
    direction = last if last in ("up", "down") else FIGURES[one.figure].title
    return f"{f'{direction} ' if named else ''}{number(one.value)} ({number(one.low)}-{number(one.high)})"


def _stood(one: Reached) -> str:
    own = FIGURES[one.figure].text(one.own)
    return own if one.other is None else f"{own} to {FIGURES[one.figure].text(one.other)} of {one.beside}"


def demands(run: Run, rows: tuple[Row, ...] = ROWS) -> str:
    """The table of demands: what was reached, whether it is enough, beside what, and how to repeat it."""
    lines = [
        "| figure | reached (range of the rounds) | must | aim | verdict | medians | again |",
        "|---|---|---|---|---|---|---|",
    ]
    for outcome in (judge(row, run) for row in rows):
        lines.append(f"| {' | '.join(_demand(outcome))} |")
    return "\n".join(lines)


def _demand(outcome: Outcome) -> list[str]:
    row, several = outcome.row, len(outcome.reached) > 1
    verdict = outcome.verdict.value
    if outcome.verdict is Verdict.MISSED:
        verdict = f"**{verdict}**"
    if outcome.verdict is Verdict.NOT_MEASURED:
        reached, stood = "-", one_line(outcome.reason or "")
    else:
        reached = "; ".join(_reached(one, several) for one in outcome.reached)
        stood = "; ".join(_stood(one) for one in outcome.reached)
    again = f"`make bench ONLY={row.key}`"
    return [row.title, reached, limit(row, row.must), limit(row, row.aim), verdict, stood, again]


def one_line(text: str) -> str:
    """A reason in a table's cell: one line, no cell border, not longer than a few lines of a page."""
    flat = " ".join(text.split()).replace("|", "/")
    return flat if len(flat) <= 300 else f"{flat[:297]}..."


def subjects(run: Run) -> str:
    """What every subject reached: medians, with the range of the rounds in brackets."""
    parts = []
    for title, figures in _TABLES:
        shown = [figure for figure in figures if any(run.values(name, figure) for name in run.wanted)]
        if not shown:
            continue
        head = ["", *(FIGURES[figure].title for figure in shown)]
        lines = [f"**{title}**", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for name in run.wanted:
            if any(figure in shown for figure in run.wanted[name]):
                lines.append(f"| {' | '.join([name, *_cells(run, name, shown)])} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(run: Run, name: str, figures: list[str]) -> list[str]:
    cells = []
    for figure in figures:
        spread = run.spread(name, figure)
        if spread is None:
            failed = figure in run.wanted[name] and run.failure(name)
            cells.append("failed" if failed else "-")
        else:
            text = FIGURES[figure].text
            cells.append(f"{text(spread.median)} ({text(spread.low)}-{text(spread.high)})")
    return cells


def failures(run: Run) -> str:
    """What could not be measured, each with the reason; empty when nothing failed."""
    lines = []
    for name in run.wanted:
        reason, turns = run.failure(name), len({one.turn for one in run.samples if one.subject == name and one.failure})
        if reason is not None:
            lines.append(f"- {name} failed in {turns} of {run.rounds} rounds: {one_line(reason)}")
    return "\n".join(lines)


def method(run: Run) -> str:
    """When, on what, with which versions."""
    told = {name: value for name, value in run.identity.items() if name not in ("machine", "kernel", "native module")}
    versions: dict[str, list[str]] = {}
    for name, version in told.items():
        versions.setdefault(version, []).append(name)
    listed = "\n".join(f"- {'; '.join(names)}: {version}" for version, names in versions.items())
    return (
        f"Measured {run.started[:10]} on {run.identity['machine']}, Linux {run.identity['kernel'].split('-')[0]}: "
        f"medians of {run.rounds} rounds, loads of {run.seconds} s, everything in turn in every round "
        f"(load average before it: {run.load:g}).\n\n"
        f"Versions:\n\n{listed}"
    )


def body(run: Run) -> str:
    """Everything between the markers."""
    parts = [demands(run), f"![Bulk throughput]({PLOT})", subjects(run), failures(run), method(run)]
    return "\n\n".join(part for part in parts if part)


def write(run: Run, document: Path) -> None:
    """Replaces what stands between the markers of the document.

    Raises:
        ValueError: the document lacks the markers.
    """
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} has no place for the figures: it needs the lines {BEGIN} and {END}")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    document.write_text(f"{head}{BEGIN}\n{body(run)}\n{END}{tail}")
