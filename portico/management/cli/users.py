"""`portico users`: who has authenticated at which remote computer; list, revoke."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from portico.errors import InvalidInput
from portico.management.cli import output
from portico.management.cli.connection import server

app = typer.Typer()


@app.command("list")
def list_command(
    all_: Annotated[bool, typer.Option("--all", help="Also those that were ended.")] = False, json: output.Json = False
) -> None:
    """List users that have authenticated at remote computers, newest first.

    Example: `portico users list`
    """
    with server() as api:
        every = list(api.entries("/v1/users", "users"))
    found = {"users": [user for user in every if all_ or user["state"] == "open"]}
    rows = [
        (
            user["id"],
            user["user"],
            user["machine"],
            user["method"],
            output.time_text(user["began"]),
            output.time_text(user["until"]),
            f"{user['state']} ({user['ended_by']})" if user["ended_by"] else user["state"],
        )
        for user in found["users"]
    ]
    columns = ["Id", "User", "Computer", "By", "Since", "Until", "State"]
    output.show(found, lambda out: out.print(output.table(columns, rows, empty="No user has authenticated.")))


@app.command()
def revoke(
    user: Annotated[str | None, typer.Argument(help="The user, at every computer.")] = None,
    grant: Annotated[str | None, typer.Option("--id", help="One entry of the list.")] = None,
    computer: Annotated[str | None, typer.Option(help="Whoever has authenticated at this computer.")] = None,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """End what a user is allowed: the intranet closes at once, on every server. The user may log in again.

    Example: `portico users revoke alice@corp.example.net --yes`
    """
    given: dict[str, Any] = {"user": user, "id": grant, "machine": computer}
    given = {key: value for key, value in given.items() if value is not None}
    if len(given) != 1:
        raise InvalidInput(
            "It is not clear whose access ends",
            why="exactly one of USER, --id and --computer is needed",
            resolution="List them with: portico users list",
        )
    ((key, value),) = given.items()
    with server() as api:
        if dry_run:
            doomed = [u for u in api.entries("/v1/users", "users") if u["state"] == "open" and u[key] == value]
            output.show(
                {"dry_run": True, "revokes": [u["id"] for u in doomed]},
                lambda out: out.print(f"Would end {len(doomed)} logins."),
            )
            return
        output.confirm(f"End what {value} is allowed?", yes=yes)
        done = api.post("/v1/users/revoke", given)
    output.show(done, lambda out: out.print(f"Ended {len(done['revoked'])} logins of {escape(value)}."))
