"""`portico clients`: list, show, disconnect, revoke."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape

from portico.certificates.revocation import REASONS
from portico.management.cli import output
from portico.management.cli.connection import client_names, server
from portico.server.clients import ClientState

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="The client's name, as its certificate has it.", autocompletion=client_names)]
Reason = StrEnum("Reason", {name.replace("-", "_"): name for name in REASONS})  # type: ignore[misc]


@app.command("list")
def list_command(
    state: Annotated[
        ClientState | None,
        typer.Option(help="Only clients in this state."),
    ] = None,
    json: output.Json = False,
) -> None:
    """List remote computers, connected ones first.

    Example: `portico clients list --state connected`
    """
    with server() as api:
        every = list(api.entries("/v1/clients", "clients", state=state.value if state else None))
    found: dict[str, Any] = {"clients": every, "total": len(every)}
    columns = ["Name", "State", "Address", "From", "Since", "In", "Out", "Serial"]
    rows = [_row(client) for client in found["clients"]]
    if any("server" in session for client in found["clients"] for session in client["sessions"]):
        columns.insert(2, "Server")
        for row, client in zip(rows, found["clients"], strict=True):
            row.insert(2, ", ".join(dict.fromkeys(str(s.get("server", "")) for s in client["sessions"])))
    empty = (
        f"No client is {state.value}." if state else "No clients yet. Enrol one: portico ca token create --name NAME"
    )
    output.show(found, lambda out: out.print(output.table(columns, rows, empty=empty)))


@app.command()
def show(name: Name, json: output.Json = False) -> None:
    """Show one remote computer: its tunnels, counters and certificates.

    Example: `portico clients show laptop7`
    """
    with server() as api:
        client = api.get(f"/v1/clients/{quote(name, safe='')}")
    output.show(client, lambda out: _show(out, client))


@app.command()
def disconnect(name: Name, yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Close a client's tunnels. It dials again by itself; to keep it out, revoke it.

    Example: `portico clients disconnect laptop7 --yes`
    """
    path = f"/v1/clients/{quote(name, safe='')}"
    with server() as api:
        client = api.get(path)
        count = len(client["sessions"])
        if dry_run:
            result = {"dry_run": True, "closes": count}
            output.show(result, lambda out: out.print(f"Would close {count} tunnels of {escape(name)}."))
            return
        output.confirm(f"Close {count} tunnels of {name}?", yes=yes)
        done = api.post(f"{path}/disconnect")
    output.show(done, lambda out: out.print(f"Closed {done['closed']} tunnels of {escape(name)}."))


@app.command()
def revoke(
    name: Name,
    reason: Annotated[Reason, typer.Option(help="Goes into the revocation list.")] = Reason("unspecified"),  # noqa: B008
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Revoke a client's certificates for good and close its tunnels at once.

    Example: `portico clients revoke laptop7 --reason key-compromise`
    """
    with server() as api:
        client = api.get(f"/v1/clients/{quote(name, safe='')}")
        good = [c["serial"] for c in client["certificates"] if c["revoked"] is None]
        if dry_run:
            result = {"dry_run": True, "revokes": good, "closes": len(client["sessions"])}
            text = f"Would revoke {len(good)} certificates and close {len(client['sessions'])} tunnels."
            output.show(result, lambda out: out.print(text))
            return
        output.confirm(f"Revoke {name}? It must be enrolled again to come back.", yes=yes)
        done = api.post("/v1/revocations", {"name": name, "reason": reason.value})
    text = f"Revoked {len(done['serials'])} certificates of {name}, closed {done['closed']} tunnels."
    output.show(done, lambda out: out.print(escape(text)))


def _row(client: dict[str, Any]) -> list[object]:
    session = client["sessions"][0] if client["sessions"] else {}
    since = _since(session)
    if not since and client["last_seen"]:
        since = f"last seen {output.time_text(client['last_seen'])}"
    return [
        client["name"],
        client["state"],
        ", ".join(_addresses(session)),
        session.get("peer", ""),
        since,
        output.bytes_text(session["bytes_in"]) if "bytes_in" in session else "",
        output.bytes_text(session["bytes_out"]) if "bytes_out" in session else "",
        client["serial"] or "",
    ]


def _show(out: Console, client: dict[str, Any]) -> None:
    out.print(
        output.fields(
            {
                "Name": client["name"],
                "State": client["state"],
                "Last seen": output.time_text(client["last_seen"]) or None,
            }
        )
    )
    for session in client["sessions"]:
        out.print(
            output.fields(
                {
                    "Tunnel": session.get("session"),
                    "Server": session.get("server"),
                    "From": session.get("peer"),
                    "Addresses": ", ".join(_addresses(session)) or None,
                    "Since": _since(session),
                    "TLS": session.get("tls"),
                    "Segments": session.get("segments"),
                    "In": _traffic(session, "in"),
                    "Out": _traffic(session, "out"),
                    "Drops": session.get("drops") or None,
                }
            )
        )
    rows = [
        (c["serial"], c["not_after"][:10], c["revoked"][:19] if c["revoked"] else "") for c in client["certificates"]
    ]
    if rows:
        out.print(output.table(["Certificate", "Until", "Revoked"], rows))


def _addresses(session: dict[str, Any]) -> list[str]:
    """Global addresses before the link-local one, which nobody dials."""
    return sorted(map(str, session.get("addresses", [])), key=lambda text: text.startswith("fe80:"))


def _since(session: dict[str, Any]) -> str:
    since = session.get("since")
    return output.duration_text(time.time() - since) if isinstance(since, int | float) else ""


def _traffic(session: dict[str, Any], direction: str) -> str | None:
    count, packets = session.get(f"bytes_{direction}"), session.get(f"packets_{direction}")
    return f"{output.bytes_text(count)} in {packets} packets" if isinstance(count, int | float) else None
