"""How far servers are that are being added: `portico lb progress`, and the end of `portico lb add`."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from portico.management.cli import output
from portico.management.cli.connection import server

_MARKS = {
    "waiting": "[dim]·[/]",
    "running": "[yellow]…[/]",
    "done": "[green]✓[/]",
    "failed": "[red]✗[/]",
}
_STEPS = ("preparing", "checking", "joining", "converging")


def progress(
    names: Annotated[list[str] | None, typer.Argument(metavar="[SERVER]...", help="Their names; all if none.")] = None,
    followed: Annotated[
        bool, typer.Option("--follow", help="Go on until all of them serve, or one has failed.")
    ] = False,
    json: output.Json = False,
) -> None:
    """Show how far the servers are that are being added: preparing, checking, joining, converging.

    Ask the server that made their tokens. The exit status is 1 when one has failed. With `--json --follow` there is a
    line of JSON each time a server got on.

    Example: `portico lb progress`

    Example: `portico lb progress da2 da3 --follow`
    """
    chosen = names or []
    if followed:
        follow(chosen)
        return
    with server() as api:
        found = api.get(f"/v1/peers/additions?{urlencode([('server', name) for name in chosen])}")
    output.show(found, lambda out: _show(out, found["servers"]))
    if any(item["state"] == "failed" for item in found["servers"]):
        raise typer.Exit(1)


def somebody_looks() -> bool:
    """Whether a person sees what goes on: both outputs are a terminal, and nobody asked for JSON."""
    return not output.wants_json() and sys.stdout.isatty() and sys.stderr.isatty()


def follow(names: Sequence[str]) -> None:
    """Shows servers as they get on, until all serve or one has failed.

    Raises:
        typer.Exit: with status 1, one has failed.
        PorticoError: the server cannot be asked.
    """
    known: dict[str, dict[str, Any]] = {}
    query = urlencode([("progress", "true"), *(("server", name) for name in names)])
    try:
        with server() as api, _drawn(known) as draw:
            for line in api.lines("GET", f"/v1/peers/additions?{query}"):
                if output.wants_json():
                    print_line(line)
                if "addition" in line:
                    item = line["addition"]
                    draw(known.get(item["server"]), item)
    except KeyboardInterrupt:
        output.note("Nothing was stopped. Look again: portico lb progress")
        return
    for item in known.values():
        if not output.wants_json():
            for failure in _failures(item):
                output.print_problem(output.stderr(), {**failure, "path": item["server"]})
    if not known:
        output.note("No server is being added. Begin with: portico lb add NAME")
    if any(item["state"] == "failed" for item in known.values()):
        raise typer.Exit(1)


def show_plan(out: Console, planned: dict[str, Any]) -> None:
    """What adding a server consists of."""
    for number, item in enumerate(planned["plan"], 1):
        out.print(f"{number}. {item['step']}: {item['what']}", markup=False, soft_wrap=True)


def print_line(data: dict[str, Any]) -> None:
    """One line of JSON on stdout, at once."""
    sys.stdout.write(json_format.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@contextmanager
def _drawn(known: dict[str, dict[str, Any]]) -> Iterator[Any]:
    """A function that takes a server's former and new state: a table on a terminal, elsewhere a line for each step."""
    out = output.stderr()
    if output.wants_json():
        yield lambda _, item: known.update({item["server"]: item})
        return
    if not out.is_terminal:

        def line(before: dict[str, Any] | None, item: dict[str, Any]) -> None:
            known[item["server"]] = item
            for step in _changed(before, item):
                detail = f" [dim]{escape(step['detail'])}[/]" if step["detail"] else ""
                out.print(f"{_MARKS[step['state']]} {escape(item['server'])} {step['step']}{detail}")

        yield line
        return
    with Live(console=out, auto_refresh=False) as live:

        def table(_: dict[str, Any] | None, item: dict[str, Any]) -> None:
            known[item["server"]] = item
            live.update(_table(known.values()), refresh=True)

        yield table


def _changed(before: dict[str, Any] | None, item: dict[str, Any]) -> list[dict[str, Any]]:
    """Steps that are not as they were; those that nobody has begun say nothing."""
    former = {step["step"]: step for step in before["steps"]} if before is not None else {}
    changed = [step for step in item["steps"] if former.get(step["step"]) != step]
    return [step for step in changed if step["state"] != "waiting" or step["detail"]]


def _show(out: Console, items: Sequence[dict[str, Any]]) -> None:
    if not items:
        out.print("No server is being added. Begin with: portico lb add NAME")
        return
    out.print(_table(items))
    for item in items:
        for failure in _failures(item):
            output.print_problem(out, {**failure, "path": item["server"]})


def _failures(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [step["failure"] for step in item["steps"] if step["failure"] is not None]


def _table(items: Iterable[dict[str, Any]]) -> Table:
    """A line for each server: a mark for each step, and what the one that it is at says."""
    drawn = Table("Server", *(name.capitalize() for name in _STEPS), "Now", box=None, pad_edge=False)
    for item in items:
        steps = {step["step"]: step for step in item["steps"]}
        at = next((step for step in item["steps"] if step["state"] != "done"), item["steps"][-1])
        now = f"{at['detail'] or at['step']}"
        drawn.add_row(escape(item["server"]), *(_MARKS[steps[name]["state"]] for name in _STEPS), escape(now))
    return drawn
