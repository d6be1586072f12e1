"""`portico client status|page|collect`: whether this computer is on the intranet, and if not, why."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.client.assistant.report import Check, Report, State
from portico.client.control_client import ask
from portico.client.identity import ClientFiles
from portico.client.status import Status
from portico.client.surface import bundle, feed_client, page_server
from portico.client.surface.page import draw
from portico.client.surface.redaction import Redactor, secrets_of
from portico.client.surface.sources import sources
from portico.client.surface.words import MARKS, Word, failure, standing, word
from portico.errors import InvalidInput, NotPermitted
from portico.files import write_file
from portico.management.cli import user_login, watch
from portico.management.cli.exit_codes import ExitCode
from portico.management.cli.output import (
    Json,
    Progress,
    bytes_text,
    duration_text,
    fields,
    note,
    require_root,
    show,
    table,
    time_text,
    wants_json,
    warn,
)

_COLOURS = {Word.WORKING: "green", Word.CONNECTING: "yellow", Word.BROKEN: "red", Word.OFF: "default"}


def status(
    watching: watch.Watch = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 1 unless it works (word: working), for scripts.")
    ] = False,
    json: Json = False,
) -> None:
    """Whether this computer is on the intranet, in one word, and if not, which check says why and who must act.

    Root sees everything. Other users see the word and the checks, as the agent tells everybody.

    Exit status: 0 the agent has answered, whatever it says; with --check 0 only for "working", otherwise 1; 4 the agent
    does not answer.

    Example: `portico client status`

    Example: `portico client status --check --json`

    Example: `portico client status --watch 2`
    """
    if check and watching is not None:
        raise InvalidInput("--check and --watch do not go together", why="one ends at once, the other does not")
    found: dict[str, Any] = {}

    def look() -> dict[str, Any]:
        found.clear()
        found.update(_look())
        return found

    watch.show(look, lambda out, found, _rates: draw_status(out, found), watching)
    if check and found["word"] != Word.WORKING:
        raise typer.Exit(ExitCode.FAILED)


def _look() -> dict[str, Any]:
    """The agent's status for root; for other users what it tells everybody."""
    try:
        user_login.refresh()
        return worded(ask("GET", "status"))
    except NotPermitted:
        report = feed_client.read()
        note("This is what every user may see. Addresses, counters and settings: sudo portico client status")
        return {
            "word": word(report.status).value,
            "status": report.status.value,
            "substatus": report.substatus.value,
            "assistant": report.as_dict(),
        }


def worded(found: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's answer with the word in front."""
    return {"word": word(Status(found["status"])).value, **found}


def draw_status(out: Console, found: Mapping[str, Any]) -> None:
    """The word, the check that failed, the chain, then everything else that the agent has told."""
    report = _report(found)
    said = word(Status(found["status"]))
    colour = _COLOURS[said]
    if report is None:
        substatus = found["substatus"]
        line = found["status"] + (f" ({substatus})" if substatus != "None" else "")
    else:
        since = report.since.timestamp()
        line = f"{standing(report)}, since {time_text(since)} ({duration_text(time.time() - since)})"
    out.print(f"[bold {colour}]{said.value}[/]  {escape(line)}")
    if report is not None:
        _draw_report(out, report)
    if "transition_technology" in found:
        out.print()
        _draw_details(out, found)


def first_failure(found: Mapping[str, Any]) -> str:
    """The check that says why it does not work, and what it found; empty when none failed."""
    report = _report(found)
    broken = report.failed if report is not None else None
    return f"{broken.name}: {broken.detail}" if broken is not None else ""


def _draw_report(out: Console, report: Report) -> None:
    now = time.time()
    if report.network:
        out.print(f"[dim]network: {escape(report.network)}[/]")
    for broken in (check for check in report.checks if check.state is State.FAILED):
        out.print()
        since = broken.since.timestamp()
        lines = failure(report, broken)
        since_text = f"{time_text(since)} ({duration_text(now - since)})"
        out.print(fields({"What failed": lines.pop("What failed"), "Since": since_text, **lines}))
    if report.checks:
        out.print()
        out.print(table(["Check", "State", "For", "Found"], [_row(check, now) for check in report.checks]))


def _row(check: Check, now: float) -> tuple[str, str, str, str]:
    since = duration_text(now - check.since.timestamp())
    return f"{MARKS[check.state]} {check.name}", check.state.value, since, check.detail


def _draw_details(out: Console, found: Mapping[str, Any]) -> None:
    now = time.time()
    error = found.get("last_error")
    since, upcoming = found.get("since"), found.get("next_attempt")
    out.print(
        fields(
            {
                "Name": found.get("name") or None,
                "Server": found.get("server") or None,
                "Connected to": found.get("peer") or None,
                "Proxy": found.get("proxy") or None,
                "Transition technology": found["transition_technology"],
                "IP-HTTPS interface": found["interface_status"],
                "Addresses": ", ".join(found["addresses"]) or None,
                "Routes": ", ".join(found["routes"]) or None,
                "Tunnel since": f"{time_text(since)} ({duration_text(now - since)})" if since else None,
                "Received / sent": f"{bytes_text(found['bytes_in'])} / {bytes_text(found['bytes_out'])}",
                "Last error": f"{error['text']} ({error['hex']}) at {time_text(error['at'])}" if error else None,
                "Next attempt": f"in {duration_text(upcoming - now)}" if upcoming else None,
                **user_login.level_fields(dict(found)),
                "Certificate until": time_text(found.get("certificate_expires")) or None,
                "DNS": f"{found['dns_mode']}, resolver {found['resolver']}" if found.get("resolver") else None,
            }
        )
    )
    rows = [(rule["namespace"], ", ".join(rule["dns_servers"]) or "exemption") for rule in found["nrpt"]]
    if rows:
        out.print()
        out.print(table(["Namespace", "DNS servers"], rows))
    if not wants_json():
        for problem in found["problems"]:
            warn(problem)


def _report(found: Mapping[str, Any]) -> Report | None:
    """The assistant's report in the agent's answer; None when the agent has none."""
    data = found.get("assistant")
    if data is None:
        return None
    try:
        return Report.from_dict(data)
    except ValueError as error:
        raise InvalidInput(
            "The agent's report is not understood",
            why=str(error),
            resolution="Restart the agent, so that it has this command's version: systemctl restart portico-client",
        ) from None


def page(
    output: Annotated[
        Path | None, typer.Option(help="Write the page of this moment into a file instead.", dir_okay=False)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port of 127.0.0.1; 0 takes a free one.")] = 0,
    json: Json = False,
) -> None:
    """Show the checks as a page for a browser on this computer, until Ctrl-C or nobody has looked for half an hour.

    No root is needed. The page has an address that nobody can guess, and only this computer reaches it.

    Example: `portico client page`

    Example: `portico client page --output status.html`
    """
    if output is not None:
        text = draw(feed_client.read(), datetime.now().astimezone(), refresh=False)
        write_file(output, text.encode(), mode=0o600)
        show({"file": str(output)}, lambda out: out.print(str(output)))
        return
    try:
        asyncio.run(_serve(port))
    except KeyboardInterrupt:
        return
    note("Nobody has looked for half an hour: the page is no longer shown.")


async def _serve(port: int) -> None:
    server = page_server.PageServer(feed_client.read, port=port)
    show({"url": server.url}, lambda out: out.print(f"Open in a browser: {server.url}"))
    sys.stdout.flush()  # whoever reads it through a pipe waits for it
    note("Ctrl-C ends it.")
    await server.run()


def collect(
    output: Annotated[
        Path | None, typer.Option(help="File or directory to write to; else a new file in the current directory.")
    ] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="Show what would be collected, and collect nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Collect what a support engineer needs into one file: status, checks, routes, resolvers, log lines, versions.

    No private key, password or token is in it. Names and addresses of the intranet and of this computer are. It can be
    collected while the agent does not run.

    Example: `portico client collect`

    Example: `portico client collect --list`

    Example: `portico client collect --output /tmp/bundle.tar.gz`
    """
    files = ClientFiles()
    items = sources(files)
    if only_list:
        listed = [{"name": item.name, "source": item.source, "limit": item.limit} for item in items]
        rows = [(item.name, bytes_text(item.limit), item.source) for item in items]
        show(listed, lambda out: out.print(table(["File", "At most", "Where it comes from"], rows)))
        return
    require_root("Nothing was collected")
    now = datetime.now(UTC)
    path = bundle.place(output, now)
    progress = Progress()
    with progress.step("Collect") as detail:
        redactor = Redactor(secrets_of(files.directory))
        pieces = bundle.gather(items, redactor)
        missing = sum(1 for piece in pieces if piece.problem)
        detail(f"{len(pieces) - missing} files" + (f", {missing} not to be had" if missing else ""))
    with progress.step("Write the bundle") as detail:
        data = bundle.pack(pieces, now)
        bundle.write(path, data)
        detail(f"{bytes_text(len(data))}, readable by its owner only")
    result = {
        "file": str(path),
        "bytes": len(data),
        "items": [piece.as_dict() for piece in pieces],
        "secrets_removed": redactor.removed,
    }
    show(result, lambda out: out.print(str(path), soft_wrap=True))
