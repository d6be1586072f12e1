"""A run as a table and a plot, written into docs/performance.md between two markers."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks.measure import Round

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PLOT = "performance.svg"
Results = dict[str, list[Round]]


def _median(rounds: list[Round], figure: str) -> float | None:
    values = [getattr(one, figure) for one in rounds]
    return None if None in values else median(values)


def table(results: Results) -> str:
    """Medians as Markdown, with the ratio to plain routing in brackets."""
    plain = results.get("plain")
    lines = [
        "| path | up, Gbit/s | down, Gbit/s | 200-byte packets/s up | down | ping, ms | gateway CPU s per GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rounds in results.items():
        cells = [name]
        for figure, pattern in (
            ("up", "{:.2f}"),
            ("down", "{:.2f}"),
            ("small_up", "{:,.0f}"),
            ("small_down", "{:,.0f}"),
        ):
            value = _median(rounds, figure)
            assert value is not None
            text = pattern.format(value)
            if plain and name != "plain":
                text += f" ({value / (_median(plain, figure) or 1):.2f})"
            cells.append(text)
        ping, cpu = _median(rounds, "ping"), _median(rounds, "cpu_per_gb")
        cells.append("-" if ping is None else f"{ping:.2f}")
        cells.append("-" if cpu is None else f"{cpu:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: Results, file: Path) -> None:
    """Bulk throughput of every path as bars, a group a path."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same run gives the same file: no random element ids, no date.
    mpl.rcParams["svg.hashsalt"] = "portico"
    from matplotlib import pyplot

    names = [name for name in results if name != "plain"]
    figure, axes = pyplot.subplots(figsize=(9, 0.55 * len(names) + 1.5))
    for offset, direction, colour in ((0.2, "up", "#2f6f9f"), (-0.2, "down", "#9fc5e0")):
        values = [_median(results[name], direction) or 0 for name in names]
        axes.barh([index + offset for index in range(len(names))], values, 0.38, label=direction, color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("Gbit/s, one TCP stream, client and gateway and server on the same cores")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def write(results: Results, document: Path, method: str) -> None:
    """Replaces what stands between the markers of the document and draws the plot beside it.

    Raises:
        ValueError: the document lacks the markers.
    """
    text = document.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{document} has no place for the figures: it needs the lines {BEGIN} and {END}")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    plot(results, document.with_name(PLOT))
    body = f"{method}\n\n{table(results)}\n\n![Bulk throughput]({PLOT})"
    document.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}")
