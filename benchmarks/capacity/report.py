"""Rows as a table and a plot, written into docs/capacity.md between two markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.capacity.published import ADDRESS, SCENARIOS, Published
from benchmarks.capacity.scenarios import Row

BEGIN, END = "<!-- capacity: begin -->", "<!-- capacity: end -->"
PLOT = "capacity.svg"

_WORDS = {
    "answer_p50_ms": "median of answers {:.1f} ms",
    "answers_lost": "answers lost {:.2%}",
    "seconds_until_up": "all up after {:.1f} s",
    "tunnels_per_core_second": "{:,.0f} tunnels a second and core",
    "lost": "{:.0f} lost",
    "all_back_after_s": "all back {:.1f} s after the gateway's death",
    "all_up_after_s": "all up after {:.1f} s",
    "resumed": "{:.0%} resumed",
    "slowest_ms": "slowest attempt {:,.0f} ms",
    "refused": "{:.0f} refused",
    "ping_quiet_p50_ms": "pings of others before: median {:.1f} ms",
    "ping_quiet_p99_ms": "99 % within {:.1f} ms",
    "ping_storm_p50_ms": "meanwhile: median {:.1f} ms",
    "ping_storm_p99_ms": "99 % within {:.1f} ms",
    "pings_lost": "{:.0f} pings lost",
    "bindings": "{:,.0f} bindings",
    "seconds_until_made": "made in {:.0f} s",
    "bytes_per_binding": "{:,.0f} bytes each",
    "cpu_us_per_packet_with_few": "{:.2f} µs a packet with few bindings",
    "cpu_us_per_packet_with_all": "{:.2f} µs with all",
}


def _number(value: float | None, pattern: str = "{:,.0f}") -> str:
    return "-" if value is None else pattern.format(value)


def _published_line(one: Published) -> str:
    cells = [
        f"DirectAccess: {one.name}, {one.cores} cores",
        f"{one.clients:,}",
        f"{one.cpu:.0%} of {one.cores} cores",
        f"{one.internal:,.0f}",
        f"{one.internet:,.0f}",
        "-",
        f"{one.clients_per_core:,.0f}",
        f"{one.mbit_per_core:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _own_line(row: Row) -> str:
    cells = [
        f"Portico: {row.name}",
        f"{row.clients:,}",
        "-" if row.cores is None else f"{row.cores:.0%} of one core",
        _number(row.internal),
        _number(row.internet),
        _number(row.kib_per_tunnel, "{:.1f}"),
        _number(row.clients_per_core),
        _number(row.mbit_per_core),
    ]
    return f"| {' | '.join(cells)} |"


def table(rows: Sequence[Row]) -> str:
    """Clients and Mbit/s a core, the published figures first; then in words what fits into no column."""
    loaded = [row for row in rows if row.internal is not None or row.cores is not None]
    lines = [
        "| scenario | clients | CPU | Mbit/s, intranet side | Mbit/s, Internet side | KiB a tunnel | clients a core "
        "| Mbit/s a core |",
        "|---|---|---|---|---|---|---|---|",
        *(_published_line(one) for one in SCENARIOS),
        *(_own_line(row) for row in loaded),
    ]
    notes = [f"- {row.name}: {words}." for row in rows if (words := _words(row.more))]
    return "\n".join([*lines, "", *notes])


def _words(more: Mapping[str, Any]) -> str:
    return ", ".join(
        _WORDS.get(name, f"{name} {{}}").format(value) for name, value in more.items() if value is not None
    )


def plot(rows: Sequence[Row], file: Path) -> None:
    """Clients and Mbit/s a core as bars on logarithmic axes: published ones and ours."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "portico"
    from matplotlib import pyplot

    bars: list[tuple[str, float, float, str]] = [
        (f"DirectAccess, {one.clients:,}", one.clients_per_core, one.mbit_per_core, "#b0b0b0") for one in SCENARIOS
    ]
    bars += [
        (f"Portico, {row.name}", row.clients_per_core, row.mbit_per_core, "#2f6f9f")
        for row in rows
        if row.clients_per_core is not None and row.mbit_per_core is not None
    ]
    figure, both = pyplot.subplots(1, 2, figsize=(11, 0.42 * len(bars) + 1.4), sharey=True)
    for axes, column, label in ((both[0], 1, "clients a core"), (both[1], 2, "Mbit/s a core, intranet side")):
        axes.barh(range(len(bars)), [bar[column] for bar in bars], color=[bar[3] for bar in bars])
        for index, bar in enumerate(bars):
            axes.text(bar[column], index, f" {bar[column]:,.0f}", va="center", fontsize=8)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_yticks(range(len(bars)), [bar[0] for bar in bars])
    both[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def write(rows: Sequence[Row], document: Path, method: str) -> None:
    """Replaces what stands between the markers of the document and draws the plot beside it.

    Raises:
        ValueError: the document lacks the markers.
    """
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} has no place for the figures: it needs the lines {BEGIN} and {END}")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    plot(rows, document.with_name(PLOT))
    source = f"The lines of DirectAccess are averages of [Microsoft's report]({ADDRESS})."
    body = f"{method} {source}\n\n{table(rows)}\n\n![Clients and Mbit/s a core]({PLOT})"
    document.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}")
