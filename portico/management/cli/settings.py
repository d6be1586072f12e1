"""`portico settings`: show, set, edit, plan, apply, history, rollback, compare, repair."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.errors import InvalidInput, PorticoError
from portico.files import read_file
from portico.management.cli import output
from portico.management.cli.connection import author, revisions, server
from portico.management.client import ApiClient
from portico.settings.document import MAXIMUM_SIZE
from portico.settings.edit import assign, keys

app = typer.Typer()

Comment = Annotated[str, typer.Option("--comment", "-m", help="Why; kept in the history.")]
File = Annotated[Path, typer.Argument(help="A settings document (YAML).")]


def _assignments(incomplete: str) -> list[str]:
    return [f"{key}=" for key in keys() if key.startswith(incomplete)]


@app.command()
def show(
    revision: Annotated[
        int | None, typer.Option("--revision", "-r", help="Not the newest but this one.", autocompletion=revisions)
    ] = None,
    effective: Annotated[bool, typer.Option("--effective", help="Show every derived value and its origin.")] = False,
    json: output.Json = False,
) -> None:
    """Print the settings as YAML.

    Example: `portico settings show > settings.yaml`

    Example: `portico settings show --effective`
    """
    with server() as api:
        found = api.get("/v1/settings", revision=revision)
    if effective and found["effective"] is None:
        raise InvalidInput(
            "The derived values are not known",
            why="these settings are not the ones in force",
            resolution="Leave out --revision, and look at: portico server status",
        )

    def people(out: Console) -> None:
        if effective:
            rows = [(path, _text(item["value"]), item["origin"]) for path, item in found["effective"].items()]
            out.print(output.table(["Setting", "Value", "Origin"], rows))
            return
        out.print(escape(found["yaml"]), end="")

    output.show(found if not effective else found["effective"], people)
    if found["read_only"]:
        output.warn("settings are read-only; see: portico server status")


@app.command()
def plan(file: File, json: output.Json = False) -> None:
    """Check a document and show what applying it would change. Changes nothing.

    Example: `portico settings plan settings.yaml`
    """
    from portico.management.cli.check import print_plan

    with server() as api:
        found = api.post("/v1/plan", read_document(file))
    output.show(found, lambda out: print_plan(out, found))


@app.command()
def apply(
    file: File,
    comment: Comment = "",
    expected: Annotated[
        int | None, typer.Option("--expected-revision", help="Refuse when the newest revision is another one.")
    ] = None,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Verify, store and apply a document. When it cannot be applied the former settings come back.

    Example: `portico settings apply settings.yaml -m "second DNS server"`
    """
    with server() as api:
        apply_document(api, read_document(file), expected, comment, yes=yes, dry_run=dry_run)


@app.command()
def edit(
    comment: Comment = "", yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False
) -> None:
    """Open the settings in $EDITOR, then verify, store and apply them.

    Example: `portico settings edit -m "second DNS server"`
    """
    import click

    with server() as api:
        found = api.get("/v1/settings")
        text = found["yaml"]
        while True:
            try:
                changed = click.edit(text, extension=".yaml")
            except click.ClickException as error:
                raise PorticoError(
                    "The editor failed", why=error.format_message(), resolution="Set EDITOR, for example EDITOR=nano"
                ) from None
            if changed is None or changed == found["yaml"]:
                output.show({"changed": False}, lambda out: out.print("Nothing was changed."))
                return
            try:
                apply_document(
                    api,
                    {"yaml": changed, "source": "the edited settings"},
                    found["revision"]["number"],
                    comment,
                    yes=yes,
                    dry_run=dry_run,
                )
            except PorticoError as error:
                if error.code != "SETTINGS_REFUSED" or output.wants_json():
                    raise
                output.print_error(error)
                if not typer.confirm("Edit again?", default=True, err=True):
                    _keep(changed)
                    raise
                text = changed
                continue
            return


@app.command("set")
def set_command(
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...",
            help="KEY=VALUE; KEY+=VALUE and KEY-=VALUE add and remove an entry of a list. Values are YAML.",
            autocompletion=_assignments,
        ),
    ],
    comment: Comment = "",
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Change single settings, then verify, store and apply the document.

    Example: `portico settings set nat64.log_bindings=true nat64.binding_log_retention_days=90`

    Example: `portico settings set dns64.exclusion_list+=.voip.corp.example.net --dry-run`

    Example: `portico settings set 'nat64.static_bindings-={port: 50022}'`
    """
    with server() as api:
        found = api.get("/v1/settings")
        body = {"settings": assign(found["settings"], changes), "source": "the changed settings"}
        apply_document(api, body, found["revision"]["number"], comment, yes=yes, dry_run=dry_run)


@app.command()
def history(
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=1000)] = 20, json: output.Json = False
) -> None:
    """List the revisions, newest first, and how far each got on this server.

    Example: `portico settings history --limit 5`
    """
    with server() as api:
        found = api.get("/v1/settings/history", limit=limit)
    rows = [
        (
            item["number"],
            item["created"][:19].replace("T", " "),
            item["author"],
            item["progress"]["stage"] if item["progress"] else "",
            item["comment"],
        )
        for item in found
    ]
    columns = ["Revision", "Created (UTC)", "Author", "State", "Comment"]
    output.show(found, lambda out: out.print(output.table(columns, rows, empty="No settings yet.")))


@app.command()
def compare(
    before: Annotated[int, typer.Argument(help="Revision; 0 is nothing configured.", autocompletion=revisions)],
    after: Annotated[int, typer.Argument(help="Revision.", autocompletion=revisions)],
    json: output.Json = False,
) -> None:
    """Show what differs between two revisions.

    Example: `portico settings compare 1 2`
    """
    with server() as api:
        difference = api.get("/v1/settings/compare", before=before, after=after)
    output.show(difference, lambda out: _lines(out, difference["lines"]))


@app.command()
def rollback(
    revision: Annotated[int, typer.Argument(help="The revision whose settings come back.", autocompletion=revisions)],
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make the settings of an earlier revision the newest ones and apply them.

    Example: `portico settings rollback 1 --dry-run`
    """
    body: dict[str, Any] = {"revision": revision, "author": author()}
    with server() as api:
        planned = api.post("/v1/settings/rollback", {**body, "dry_run": True})
        if dry_run:
            output.show(planned, lambda out: print_difference(out, planned))
            return
        ask(planned, yes)
        outcome = api.post("/v1/settings/rollback", body)
    output.show(outcome, lambda out: print_applied(out, outcome))


@app.command()
def repair(yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Put a damaged settings database aside and start a new one from the settings in force.

    The number of the revision goes on; the history before it is lost.

    Example: `portico settings repair --yes`
    """
    with server() as api:
        if dry_run:
            damage = api.get("/v1/status")["settings_damage"]
            text = f"Would start a new settings database: {damage}" if damage else "The settings database is sound."
            output.show({"dry_run": True, "damage": damage}, lambda out: out.print(escape(text)))
            return
        output.confirm("Start a new settings database from the settings in force?", yes=yes)
        done = api.post("/v1/settings/repair")
    aside = done["set_aside"]
    text = f"The damaged database is now {aside}." if aside else "The settings database is sound; nothing was done."
    output.show(done, lambda out: out.print(escape(text)))


def read_document(file: Path) -> dict[str, Any]:
    """A document of a file as the API takes it. Raises InvalidInput and what `read_file` raises."""
    data = read_file(file, limit=MAXIMUM_SIZE)
    try:
        return {"yaml": data.decode("utf-8-sig"), "source": str(file)}
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{file} cannot be used", why=f"byte {error.start} is not UTF-8", resolution="Save it as UTF-8 text"
        ) from None


def apply_document(
    api: ApiClient, document: dict[str, Any], expected: int | None, comment: str, *, yes: bool, dry_run: bool
) -> None:
    """Shows what a document would change, asks, and applies it."""
    body = {**document, "expected_revision": expected, "comment": comment, "author": author()}
    planned = api.post("/v1/settings", {**body, "dry_run": True})
    if dry_run:
        output.show(planned, lambda out: print_difference(out, planned))
        return
    if planned["difference"]["changes"]:
        ask(planned, yes)
    outcome = api.post("/v1/settings", body)
    output.show(outcome, lambda out: print_applied(out, outcome))


def ask(planned: dict[str, Any], yes: bool) -> None:
    """Shows what a change would do and asks whether to do it. Raises as `output.confirm`."""
    if not output.wants_json():
        print_difference(output.stderr(), planned)
    output.confirm("Apply this?", yes=yes)


def print_difference(out: Console, outcome: dict[str, Any]) -> None:
    """What a change does, or would do, and what verification says about it."""
    _lines(out, outcome["difference"]["lines"])
    for problem in outcome["problems"]:
        output.print_problem(out, problem)


def _lines(out: Console, lines: list[str]) -> None:
    colours = {"+": "green", "-": "red", "~": "yellow", "!": "bold yellow"}
    for line in lines:
        out.print(f"[{colours.get(line[:1], 'default')}]{escape(line)}[/]")
    if not lines:
        out.print("No difference.")


def print_applied(out: Console, outcome: dict[str, Any]) -> None:
    revision = outcome["revision"]
    out.print(f"Revision {revision['number']} is in force.")


def _keep(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="portico-settings-", delete=False) as file:
        file.write(text)
    output.note(f"Your text is kept in {file.name}")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
