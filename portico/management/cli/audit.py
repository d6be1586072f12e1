"""`portico audit`: what was changed, by whom, from where; and whether the log is as it was written."""

from __future__ import annotations

import json as codec
import time
from typing import Annotated, Any

import typer
from rich.console import Console

from portico.errors import PorticoError
from portico.management.cli import output
from portico.management.cli.connection import server

app = typer.Typer()

_COLUMNS = ("#", "Time (UTC)", "Who", "From", "What", "Result", "Changed")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many at most.")] = 50,
    before: Annotated[int | None, typer.Option("--before", min=1, help="Entries with smaller numbers.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, max=3600, help="Seconds between looks.")] = 1.0,
    json: output.Json = False,
) -> None:
    """Show what was changed at a server, the last of it at the end. Each server has the log of its own changes.

    Example: `portico audit list --follow`, or `portico --on da2 audit list`
    """
    with server() as api:
        found = api.get("/v1/audit", limit=limit, before=before)
    entries = list(reversed(found["entries"]))
    if not follow:
        shown = {"server": found["server"], "entries": entries}
        output.show(shown, lambda out: out.print(output.table(_COLUMNS, map(_row, entries), empty="Nothing yet.")))
        return
    last = max((entry["number"] for entry in entries), default=0)
    _print(entries)
    while True:
        try:
            time.sleep(interval)
            with server() as api:
                new = api.get("/v1/audit", limit=1000, after=last)["entries"]
        except KeyboardInterrupt:
            return
        _print(new)
        last = max((entry["number"] for entry in new), default=last)


@app.command()
def verify(json: output.Json = False) -> None:
    """Follow the chain of a server's log; the other servers say where they heard that it ended.

    Example: `portico audit verify`
    """
    with server() as api:
        found = api.get("/v1/audit/verify")

    def people(out: Console) -> None:
        entries = f"{found['entries']} entries, {found['first']} to {found['last']}"
        out.print(f"{found['server']}: {entries}, {'intact' if found['intact'] else 'NOT INTACT'}.", markup=False)
        for fault in found["faults"]:
            out.print(f"  {fault}", markup=False, soft_wrap=True)
        out.print(f"Witnesses: {', '.join(found['witnesses']) or 'none'}. Head: {found['head']}", markup=False)

    output.show(found, people)
    if not found["intact"]:
        raise PorticoError(
            f"The audit log of {found['server']} is not as it was written",
            why=found["faults"][0],
            resolution="Keep a copy of the files, find out who was root, and compare with the other servers' logs",
            code="AUDIT_TAMPERED",
        )


def _print(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        if output.wants_json():
            typer.echo(codec.dumps(entry))
        else:
            output.console().print("  ".join(str(cell) for cell in _row(entry) if cell), markup=False, soft_wrap=True)


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    before, after = entry.get("before"), entry.get("after")
    changed = ""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        changed = "; ".join(f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys[:5])[:300]
    who = f"{entry.get('who')} ({entry.get('kind')})"
    when = str(entry.get("time", ""))[:19].replace("T", " ")
    return entry["number"], when, who, entry.get("from"), entry.get("action"), entry.get("result"), changed
