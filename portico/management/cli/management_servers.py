"""`portico management-servers`: what computers reach before their user has authenticated; list, add, remove."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from portico.errors import NotFound
from portico.management.cli import output
from portico.management.cli.connection import server
from portico.management.cli.settings import apply_document
from portico.management.client import ApiClient

app = typer.Typer()


class Type(StrEnum):
    """What a management server is."""

    MANUAL = "Manual"
    DOMAIN_CONTROLLER = "DomainController"
    DNS = "Dns"
    UPDATE = "Update"


@app.command("list")
def list_command(json: output.Json = False) -> None:
    """List the servers that computers reach before anybody has logged on.

    Example: `portico management-servers list`
    """
    with server() as api:
        settings = api.get("/v1/settings")["settings"]
    found = {
        "management_servers": settings["management_servers"],
        "user_authentication": settings["access"]["user_authentication"],
    }
    rows = [(item["name"], item["type"], ", ".join(item["addresses"])) for item in found["management_servers"]]
    columns = ["Name", "Type", "Addresses"]
    output.show(found, lambda out: out.print(output.table(columns, rows, empty="There are no management servers.")))


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    addresses: Annotated[list[str], typer.Argument(help="Its IPv6 and IPv4 addresses on the intranet.")],
    kind: Annotated[Type, typer.Option("--type", help="What it is.")] = Type.MANUAL,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Add a management server, or addresses to one.

    Example: `portico management-servers add dc1 10.0.0.10 fd7c:1a2b:3c4d:1::10 --type DomainController`
    """
    with server() as api:
        found = api.get("/v1/settings")
        servers: list[dict[str, Any]] = found["settings"]["management_servers"]
        same = [item for item in servers if item["name"] == name]
        if same:
            same[0]["addresses"] = list(dict.fromkeys([*same[0]["addresses"], *addresses]))
            same[0]["type"] = kind.value
        else:
            servers.append({"name": name, "addresses": addresses, "type": kind.value})
        _change(api, found, f"add management server {name}", yes=yes, dry_run=dry_run)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="As the list has it.")],
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Remove a management server.

    Example: `portico management-servers remove dc1`
    """
    with server() as api:
        found = api.get("/v1/settings")
        servers = found["settings"]["management_servers"]
        kept = [item for item in servers if item["name"] != name]
        if len(kept) == len(servers):
            raise NotFound(
                f"There is no management server {name}", resolution="List them with: portico management-servers list"
            )
        found["settings"]["management_servers"] = kept
        _change(api, found, f"remove management server {name}", yes=yes, dry_run=dry_run)


def _change(api: ApiClient, found: dict[str, Any], comment: str, *, yes: bool, dry_run: bool) -> None:
    body = {"settings": found["settings"], "source": "the changed settings"}
    apply_document(api, body, found["revision"]["number"], comment, yes=yes, dry_run=dry_run)
