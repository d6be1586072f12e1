"""`portico health` and `portico events`: what works and what does not, and when that changed."""

from __future__ import annotations

import json as json_format
import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.management.cli import output
from portico.management.cli.connection import completed, server
from portico.management.cli.times import parse_time
from portico.management.cli.watch import Watch

COLOURS = {"OK": "green", "Warning": "yellow", "Error": "red", "Unknown": "magenta", "Disabled": "dim"}
_FOLLOW_INTERVAL = 1.0
_PAGE = 500

_servers = completed(lambda api: [s["server"] for s in api.get("/v1/health")["servers"]])
_components = completed(lambda api: [c["component"] for c in api.get("/v1/health")["servers"][0]["components"]])
Server = Annotated[
    str | None, typer.Option("--server", "-s", metavar="NAME", help="Only this server.", autocompletion=_servers)
]


def health(
    component: Annotated[
        str | None,
        typer.Argument(metavar="[COMPONENT]", help="Only this one, like dns or 'Dns'.", autocompletion=_components),
    ] = None,
    on: Server = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Look now, instead of showing the last look.")] = False,
    interval: Watch = None,
    json: output.Json = False,
) -> None:
    """Show the health of all servers: components, causes, what to do. Exit status 1 when something is in error.

    Example: `portico health`

    Example: `portico health dns --server da2 --json`

    Example: `portico health --watch 5`
    """
    while True:
        with server() as api:
            path = f"/v1/health/{component}" if component is not None else "/v1/health"
            found = api.get(path, server=on, refresh=True if refresh else None)
        if interval is not None and not output.wants_json():
            output.console().clear()
        output.show(found, lambda out, found=found: _show(out, found))  # type: ignore[misc]
        if interval is None:
            break
        try:
            time.sleep(interval)
        except KeyboardInterrupt:
            break
    if found["state"] == "Error":
        raise typer.Exit(1)


def events(
    on: Server = None,
    component: Annotated[
        str | None, typer.Option("--component", metavar="NAME", help="Only this component.", autocompletion=_components)
    ] = None,
    since: Annotated[str | None, typer.Option("--since", help="Not older: 14:05, 2h, '2026-11-21 14:05'.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="The last so many.", min=1, max=1000)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    json: output.Json = False,
) -> None:
    """Show what changed in the health of the servers, oldest first. With `--follow --json`, one event a line.

    Example: `portico events --since 2h`

    Example: `portico events --follow --component dns`
    """
    begin = parse_time(since, datetime.now(UTC).astimezone()).timestamp() if since is not None else None
    asked = {"server": on, "component": component}
    with server() as api:
        found = api.get("/v1/events", since=begin, limit=limit, **asked)
        if not follow:
            output.show(found, lambda out: _list(out, found["events"]))
            return
        last = 0 if not found["events"] else found["events"][-1]["number"]
        if not found["events"]:
            newest = api.get("/v1/events", limit=1)["events"]
            last = newest[-1]["number"] if newest else 0
        _tell(found["events"])
        try:
            while True:
                time.sleep(_FOLLOW_INTERVAL)
                found = api.get("/v1/events", after=last, limit=_PAGE, **asked)
                _tell(found["events"])
                last = found["events"][-1]["number"] if found["events"] else last
        except KeyboardInterrupt:
            return


def _show(out: Console, found: dict[str, Any]) -> None:
    now = found["at"]
    rows: list[tuple[str, ...]] = []
    for report in found["servers"]:
        name = report["server"]
        if len(report["components"]) > 1:
            rows.append((name, "[bold]all[/]", _coloured(report["state"]), _ago(report["since"], now), ""))
            name = ""
        for row in report["components"]:
            text = "; ".join(finding["what"] for finding in row["findings"]) or row["why"]
            style = "dim" if row["state"] == "Disabled" else ""
            since = _ago(row["since"], now) if row["state"] != "Disabled" else ""
            cells = (name, row["title"], since, text)
            plain = [f"[{style}]{escape(cell)}[/]" if style and cell else escape(cell) for cell in cells]
            rows.append((plain[0], plain[1], _coloured(row["state"]), plain[2], plain[3]))
            name = ""
    _table(out, rows)
    for names, row, finding in _findings(found):
        _finding(out, ", ".join(names), row, finding)
    for report in found["servers"]:
        if report.get("distribution") and len(report["components"]) > 1:
            spread = report["distribution"]
            text = f"revision {spread['applied']} in force; {spread['message']}"
            out.print(f"\n{escape(report['server'])}: settings: {escape(text)}", style="dim")
    if found["cluster"]:
        out.print(f"Answered by {escape(found['answered_by'])}.", style="dim")


def _table(out: Console, rows: list[tuple[str, ...]]) -> None:
    drawn = output.table(["Server", "Component", "State", "For", "What"], [])
    assert not isinstance(drawn, str)
    for row in rows:
        drawn.add_row(*row)
    out.print(drawn)


def _findings(found: dict[str, Any]) -> list[tuple[list[str], dict[str, Any], dict[str, Any]]]:
    """Servers, component and finding: what all servers share once, with the servers that say so."""
    gathered: dict[tuple[str, ...], tuple[list[str], dict[str, Any], dict[str, Any]]] = {}
    for report in found["servers"]:
        for row in report["components"]:
            for finding in row["findings"]:
                own = "" if finding["shared"] else report["server"]
                key = (own, row["component"], finding["code"], finding["about"])
                gathered.setdefault(key, ([], row, finding))[0].append(report["server"])
    return list(gathered.values())


def _finding(out: Console, name: str, row: dict[str, Any], finding: dict[str, Any]) -> None:
    colour = COLOURS[finding["state"]]
    head = f"[{colour}]{finding['state']}[/] {escape(name)}, {escape(row['title'])}: {escape(finding['what'])}"
    out.print(f"{head} ({escape(finding['code'])}), since {output.time_text(finding['since'])}", soft_wrap=True)
    out.print(f"  Why:  {escape(finding['cause'])}", soft_wrap=True)
    out.print(f"  Next: {escape(finding['resolution'])}", soft_wrap=True)


def _list(out: Console, found: list[dict[str, Any]]) -> None:
    if not found:
        out.print("Nothing has changed.")
    for event in found:
        _line(out, event)


def _tell(found: list[dict[str, Any]]) -> None:
    if not output.wants_json():
        out = output.console()
        for event in found:
            _line(out, event)
        return
    for event in found:
        sys.stdout.write(json_format.dumps(event, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _line(out: Console, event: dict[str, Any]) -> None:
    former = event["former"] or "not known"
    text = f": {event['what']}" if event["what"] else ""
    codes = f" ({', '.join(event['codes'])})" if event["codes"] else ""
    out.print(
        f"[dim]{output.time_text(event['at'])}[/] {escape(event['server'])} {escape(event['component'])} "
        f"{former} -> {_coloured(event['state'])}{escape(text)}{escape(codes)}",
        soft_wrap=True,
    )
    if event["cause"] and event["state"] not in ("OK", "Disabled"):
        out.print(f"  {escape(event['cause'])}", style="dim", soft_wrap=True)


def _coloured(state: str) -> str:
    return f"[{COLOURS[state]}]{state}[/]"


def _ago(since: float, now: float) -> str:
    return output.duration_text(now - since)
