"""`portico check` and `portico plan`: what is wrong on the machines of all servers, and what a change would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.errors import PorticoError
from portico.management.cli import output
from portico.management.cli.connection import server
from portico.management.cli.exit_codes import ExitCode
from portico.management.cli.settings import File, print_difference, read_document

_MARKS = {"checked": "[green]✓[/]", "failed": "[red]✗[/]", "not joined": "[yellow]-[/]"}
_WORDS = {"checked": "checked", "failed": "could not be checked", "not joined": "has not joined yet"}


def check(
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Not the settings in force but this document (YAML).")
    ] = None,
    json: output.Json = False,
) -> None:
    """Check the settings with all rules on the machines of all servers. Changes nothing.

    Every server looks at itself: adapters, addresses that another machine has too, certificates, names, its version.
    The exit status is 3 when there are errors, and 0 when there is nothing or only warnings.

    Example: `portico check`

    Example: `portico check --file settings.yaml --json`
    """
    report: dict[str, Any] | None = None
    body = read_document(file) if file is not None else None
    with server() as api:
        for line in api.lines("POST" if body is not None else "GET", "/v1/check?progress=true", body):
            if "step" in line:
                _step(line["step"])
            report = line.get("report", report)
    if report is None:
        raise PorticoError(
            "The check did not end", why="the server stopped", resolution="Try it again", code="NO_REPORT"
        )
    output.show(report, lambda out: _show(out, report))
    if report["errors"]:
        raise typer.Exit(ExitCode.REFUSED)


def plan(file: File, json: output.Json = False) -> None:
    """Show what applying a document would change, and whom that would hit now. Changes nothing.

    Example: `portico plan settings.yaml`
    """
    with server() as api:
        found = api.post("/v1/plan", read_document(file))
    output.show(found, lambda out: print_plan(out, found))


def print_plan(out: Console, found: dict[str, Any]) -> None:
    """The difference, then its consequences for those who are there now."""
    print_difference(out, found)
    if not found["difference"]["changes"]:
        return
    out.print()
    out.print("[bold]If it were applied now:[/]")
    for item in found["consequences"]:
        place = f"{item['path']}: " if item["path"] else ""
        out.print(f"  [{'bold yellow' if item['disconnects'] else 'yellow'}]{escape(place + item['text'])}[/]")
    if not found["consequences"]:
        out.print("  Nobody who is there now would notice.")


def _step(step: dict[str, Any]) -> None:
    if output.wants_json():
        return
    version = f", Portico {step['version']}" if step["version"] else ""
    detail = f"{_WORDS[step['state']]}{version}, {step['seconds']:.1f} s"
    output.stderr().print(f"{_MARKS[step['state']]} {escape(step['server'])} [dim]{escape(detail)}[/]")


def _show(out: Console, report: dict[str, Any]) -> None:
    every = {step["server"] for step in report["servers"]}
    for severity, title in (("error", "Errors"), ("warning", "Warnings")):
        found = [item for item in report["findings"] if item["severity"] == severity]
        if found:
            out.print(f"[bold]{title}[/]")
        for item in found:
            _finding(out, item, every)
    checked = sum(step["state"] == "checked" for step in report["servers"])
    servers = f"{checked} of {len(every)} server{'s' if len(every) != 1 else ''} checked"
    about = f"revision {report['revision']}" if report["revision"] is not None else "the document"
    if not report["findings"]:
        out.print(f"[green]All is well[/]: {about}, {servers}.")
        return
    counts = ", ".join(
        f"{report[key]} {key if report[key] != 1 else key[:-1]}" for key in ("errors", "warnings") if report[key]
    )
    out.print(f"{counts} in {about}, {servers}.")


def _finding(out: Console, item: dict[str, Any], every: set[str]) -> None:
    colour = "red" if item["severity"] == "error" else "yellow"
    where = ", ".join(item["servers"]) if set(item["servers"]) != every or len(every) == 1 else "all servers"
    place = f"{where}: " if item["servers"] else ""
    path = f" [dim]{escape(item['path'])}[/]" if item["path"] else ""
    out.print(f"  [{colour}]{escape(place + item['what'])}[/] ({escape(item['code'])}){path}")
    out.print(f"    Why:  {escape(item['why'])}")
    out.print(f"    Next: {escape(item['resolution'])}")
