"""`portico dns`: check, records, update."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.management.cli import output
from portico.management.cli.connection import server

app = typer.Typer()

_FORMATS = ("zone", "nsupdate", "samba-tool", "powershell")


@app.command()
def check(json: output.Json = False) -> None:
    """Look at the records on every DNS server of the zone, and say what clients show where one is wrong.

    Exit status 1 when a record is missing, wrong or old on any of them, or a server does not answer.

    Example: `portico dns check`
    """
    with server() as api:
        found = api.get("/v1/dns-records")
    output.show(found, lambda out: _records(out, found))
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
def records(
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(_FORMATS),
            help="As lines of a zone file, or as commands.",
            autocompletion=lambda: list(_FORMATS),
        ),
    ] = "zone",
    json: output.Json = False,
) -> None:
    """Print the records for those who enter them by hand. Nothing is changed.

    Example: `portico dns records --format powershell`
    """
    with server() as api:
        found = api.get("/v1/dns-records/text", format=form)
    output.show(found, lambda _out: print(found["text"], end=""))


@app.command()
def update(dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Write missing and wrong records now, as corporate_dns.update says, and all others again.

    It happens by itself within half a minute; this is for those who do not wait. Exit status 1 when a record is still
    not right on every server of the zone.

    Example: `portico dns update --dry-run`
    """
    with server() as api:
        done = api.post("/v1/dns-records/update", {"dry_run": dry_run})
    output.show(done, lambda out: _updated(out, done))
    if not dry_run and not done["records"]["ok"]:
        raise typer.Exit(1)


def _updated(out: Console, done: dict[str, Any]) -> None:
    rows = [(item["action"], item["name"], item["record"], item["value"]) for item in done["changes"]]
    verb = "would change" if done["dry_run"] else "changed"
    out.print(output.table(["Action", "Name", "Type", "Value"], rows, empty=f"Nothing {verb}: every record is right."))
    if not done["dry_run"]:
        _records(out, done["records"])


def _records(out: Console, found: dict[str, Any]) -> None:
    out.print(output.fields({"Zone": found["zone"], "Updates go to": found["update_server"] or "nobody known"}))
    rows = [(name["name"], ", ".join(name["addresses"])) for name in found["wanted"]]
    out.print(output.table(["Name", "Must have"], rows, empty="No records are wanted."))
    servers = [(item["server"], item["serial"] or "", item["trouble"] or "answers") for item in found["servers"]]
    out.print(output.table(["DNS server", "Serial", "State"], servers, empty="No DNS server is known."))
    for fault in [*([found["problem"]] if found["problem"] else []), *found["faults"]]:
        out.print(f"[red]{escape(fault['code'])}[/] {escape(fault['what'])}: {escape(fault['why'])}.")
        out.print(f"  {escape(fault['resolution'])}.")
    if found["ok"]:
        out.print("Every record is right on every server.")
