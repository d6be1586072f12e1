"""`portico admin`: tokens, certificates and sessions of those who administer the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from portico.certificates.issue import client_name, make_request
from portico.certificates.trust import pin as pin_of
from portico.errors import NotFound
from portico.files import write_file
from portico.management.cli import output
from portico.management.cli.connection import completed, server
from portico.management.cli.times import parse_duration

app = typer.Typer()
token_app = typer.Typer()
certificate_app = typer.Typer()
app.add_typer(token_app, name="token", help="API tokens: for programs, and for people without a login.")
app.add_typer(certificate_app, name="certificate", help="Certificates of administrators.")

_open = completed(lambda api: [c["id"] for c in api.get("/v1/credentials", state="open", limit=1000)["credentials"]])
_COLUMNS = ("Identifier", "Kind", "For", "Role", "State", "Expires (UTC)", "Made by")


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Option(help="What it is for; the audit log shows it.")],
    role: Annotated[str, typer.Option(help="viewer, operator or administrator.")] = "viewer",
    expires: Annotated[str, typer.Option(help="How long it lives: 12h, 90d.")] = "90d",
    json: output.Json = False,
) -> None:
    """Make an API token. It is shown this once.

    Example: `portico admin token create --name monitoring --role viewer --expires 365d`
    """
    body = {"name": name, "role": role, "lifetime_seconds": parse_duration(expires)}
    with server() as api:
        made = api.post("/v1/credentials/tokens", body)

    def people(out: Console) -> None:
        shown = made["credential"]
        output.note(f"{shown['name']}, {shown['role']}, until {_time(shown['expires'])} UTC. It is not shown again.")
        out.print(made["token"], soft_wrap=True, markup=False)

    output.show(made, people)


@certificate_app.command("issue")
def certificate_issue(
    name: Annotated[str, typer.Argument(help="Whose; management.roles (source: certificate) says the role.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: certificate and key, for its owner only.")],
    days: Annotated[int, typer.Option("--days", min=1, max=825, help="How long it is valid.")] = 90,
    json: output.Json = False,
) -> None:
    """Make a key on this machine, and have the cluster issue a certificate for it.

    Example: `portico admin certificate issue alice --out alice.pem`
    """
    key, request = make_request(client_name(name))
    with server() as api:
        made = api.post("/v1/credentials/certificates", {"name": name, "csr": request, "days": days})
    write_file(out, (key + made["certificate_chain"]).encode())
    result = {
        "name": name,
        "file": str(out),
        "serial": made["credential"]["id"],
        "expires": made["credential"]["expires"],
    }

    def people(console: Console) -> None:
        console.print(f"{out} is valid until {_time(result['expires'])} UTC.", markup=False)
        output.note(f"Use it: portico connect NAME URL --certificate {out}")

    output.show(result, people)


@app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Also those that ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="So many at most.")] = 100,
    json: output.Json = False,
) -> None:
    """List tokens, certificates and sessions, newest first, without their secrets.

    Example: `portico admin list --all`
    """
    with server() as api:
        found = api.get("/v1/credentials", state=None if every else "open", limit=limit)
    rows = [
        (c["id"], c["kind"], c["name"], c["role"] or "by the settings", c["state"], _time(c["expires"]), c["author"])
        for c in found["credentials"]
    ]

    def people(out: Console) -> None:
        out.print(output.table(_COLUMNS, rows, empty="Nobody but root on the servers themselves."))
        if found["total"] > len(rows):
            output.note(f"{found['total'] - len(rows)} more: --limit")

    output.show(found, people)


@app.command()
def revoke(
    identifier: Annotated[str, typer.Argument(help="See: portico admin list.", autocompletion=_open)],
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Make a token, certificate or session useless on every server at once.

    Example: `portico admin revoke 4f1c9a2b7d3e8f60`
    """
    output.confirm(f"Make {identifier} useless?", yes=yes)
    with server() as api:
        done = api.delete(f"/v1/credentials/{identifier}")
    output.show(done, lambda out: out.print(f"Revoked: {done['kind']} of {done['name']}.", markup=False))


@app.command("revoke-user")
def revoke_user(
    subject: Annotated[str, typer.Argument(help="The user's `sub` at the provider.")],
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """End every session of a user of the provider, and refuse the tokens that it was given until now.

    Take the user's role away at the provider, or in management.roles, or he logs in again.

    Example: `portico admin revoke-user 248289761001`
    """
    output.confirm(f"End every session of {subject}?", yes=yes)
    with server() as api:
        done = api.post("/v1/credentials/revoke-user", {"subject": subject})
    output.show(done, lambda out: out.print(f"Sessions ended: {len(done['sessions'])}.", markup=False))


@app.command()
def pin(json: output.Json = False) -> None:
    """Show the SHA-256 of the CA of administration, to compare when another machine connects.

    Example: `portico admin pin`
    """
    with server() as api:
        authority = api.get("/v1/login")["authority"]
    if authority is None:
        raise NotFound(
            "There is no CA of administration yet",
            why="the API never listened on the network",
            resolution="Set management.state to enabled, and look at: portico server status",
            code="CA_MISSING",
        )
    result = {"pin": pin_of(authority), "authority": authority}
    output.show(result, lambda out: out.print(result["pin"], markup=False))


@app.command()
def servers(json: output.Json = False) -> None:
    """Show the state of every server of the cluster, as each says it.

    Example: `portico admin servers`
    """
    with server() as api:
        found: dict[str, Any] = api.get("/v1/servers")
    rows = [
        (
            item["name"],
            "no answer" if item["status"] is None else "serving" if item["status"]["serving"] else "not serving",
            item["status"] and item["status"]["revision"],
            item["status"] and item["status"]["sessions"],
            ((item["status"] or {}).get("problem") or item["problem"] or {}).get("what"),
        )
        for item in found["servers"]
    ]
    columns = ("Server", "State", "Revision", "Clients", "Problem")
    output.show(found, lambda out: out.print(output.table(columns, rows)))


def _time(text: str) -> str:
    return text[:16].replace("T", " ")
