"""Counters that are shown once, or again and again with what they change by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from portico.management.cli import output

Watch = Annotated[
    float | None, typer.Option("--watch", "-w", help="Show it again every so many seconds.", min=0.2, max=3600)
]
Rates = Mapping[str, float]
"""Change a second of each counter since the last look; empty at the first."""


def show(look: Callable[[], Any], people: Callable[[Console, Any, Rates], None], interval: float | None) -> None:
    """Shows what `look` returns, whose key `counters` holds the counters; with an interval until Ctrl-C.

    With `--json` every look is one document on stdout.
    """
    former: dict[str, float] = {}
    when = 0.0
    while True:
        found = look()
        now, counters = time.monotonic(), dict(numbers(found.get("counters", {})))
        rates = {
            name: (value - former[name]) / (now - when) for name, value in counters.items() if name in former and when
        }
        former, when = counters, now
        if interval is not None and not output.wants_json():
            output.console().clear()
        output.show(found, lambda out, found=found, rates=rates: people(out, found, rates))  # type: ignore[misc]
        if interval is None:
            return
        try:
            time.sleep(interval)
        except KeyboardInterrupt:
            return


def numbers(counters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number, by its path: `{"a": {"b": 1}}` is `a.b`."""
    for name, value in counters.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def counter_table(counters: Mapping[str, Any], rates: Rates, *, empty: str = "Nothing was counted yet.") -> Table | str:
    """Counters that are not zero, those of refusals and failures among them, as a table."""
    rows = []
    for name, value in numbers(counters):
        if value:
            rate = rates.get(name)
            text = output.bytes_text(value) if "bytes" in name.split("_") else f"{value:,.10g}"
            rows.append((name.replace("_", " "), text, f"{rate:,.1f}/s" if rate else ""))
    columns = ["Counter", "Value", "Change"] if rates else ["Counter", "Value"]
    return output.table(columns, [row[: len(columns)] for row in rows], empty=empty)
