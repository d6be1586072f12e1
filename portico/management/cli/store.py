"""`portico cluster store`: status, move, recover, rejoin, compact, witness."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.errors import InvalidInput
from portico.management.cli import output
from portico.management.cli.connection import author, server
from portico.management.cli.times import parse_duration

app = typer.Typer()
witness_app = typer.Typer()
app.add_typer(
    witness_app,
    name="witness",
    help="A machine that is no server and votes beside two servers.",
    no_args_is_help=True,
)


@app.command()
def status(json: output.Json = False) -> None:
    """Show where revisions of the settings are decided, and whether they can be changed.

    Example: `portico cluster store status`
    """
    with server() as api:
        found = api.get("/v1/cluster/store")
    output.show(found, lambda out: _show(out, found))


@app.command()
def move(
    kind: Annotated[str, typer.Argument(metavar="etcd|sqlite", help="Where to.")],
    endpoint: Annotated[
        list[str] | None, typer.Option("--endpoint", metavar="URL", help="Of an etcd that is there already; repeat it.")
    ] = None,
    ca: Annotated[str | None, typer.Option("--ca", metavar="FILE", help="CA of that etcd, on every server.")] = None,
    certificate: Annotated[
        str | None, typer.Option("--certificate", metavar="FILE", help="Client certificate for it.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="FILE", help="Private key of that certificate.")] = None,
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Let etcd decide about changes of the settings, or the servers among themselves again.

    etcd runs on the first three servers, which need the package etcd-server; a failure leaves the settings where they
    were.

    Example: `portico cluster store move etcd`

    Example: `portico cluster store move sqlite`
    """
    if kind not in ("etcd", "sqlite"):
        raise InvalidInput(f"The settings cannot be moved to '{kind}'", resolution="Give etcd or sqlite")
    output.confirm(f"Move the settings of this cluster to {kind}?", yes=yes)
    body = {"kind": kind, "endpoints": endpoint or [], "ca": ca, "certificate": certificate, "key": key}
    _changed("/v1/cluster/store/move", body, f"The settings are in {kind} now")


@app.command()
def recover(
    force: Annotated[bool, typer.Option("--force", help="Also while etcd works.")] = False,
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Make a lost etcd anew from this server's copy of the settings.

    For an etcd that lost most of its members, or all its data, for good. Do it on the server with the newest revision.

    Example: `portico cluster store recover`
    """
    with server() as api:
        found = api.get("/v1/cluster/store")
    output.confirm(
        f"Make etcd anew from the copy of {found['answered_by']}, revision {found['revision']}? Changes that only the "
        "lost members had are gone.",
        yes=yes,
    )
    _changed("/v1/cluster/store/recover", {"force": force}, "etcd was made anew; the other servers join it")


@app.command()
def rejoin(yes: output.Yes = False, json: output.Json = False) -> None:
    """Make this server's member of etcd anew from the others, when its data is damaged.

    Example: `portico cluster store rejoin`
    """
    output.confirm("Delete this server's data of etcd and fetch it from the other members?", yes=yes)
    with server() as api:
        found = api.post("/v1/cluster/store/rejoin", {})
    output.show(found, lambda out: _show(out, found))


@app.command()
def compact(json: output.Json = False) -> None:
    """Delete old revisions from etcd and give their space back. The servers keep theirs.

    Example: `portico cluster store compact`
    """
    with server() as api:
        found = api.post("/v1/cluster/store/compact", {})
    output.show(found, lambda out: out.print(f"Old revisions deleted: {found['deleted']}"))


@witness_app.command("add")
def add_witness(
    name: Annotated[str, typer.Argument(help="Name of the machine; it is none of the servers.")],
    address: Annotated[
        str | None, typer.Option(help="Where the servers find it; without it the address from which it asks.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long the token works, for example 30m or 2h; a day at most.")] = "1h",
    yes: output.Yes = False,
    json: output.Json = False,
) -> None:
    """Make a token with which a machine becomes the witness of a cluster of two servers, once.

    The settings are in etcd already. With a witness either of the two servers can be lost, and settings can still be
    changed. Run what is printed on that machine, which needs the package etcd-server.

    Example: `portico cluster store witness add witness1`
    """
    output.confirm(f"Make a token with which {name} becomes the witness?", yes=yes)
    body = {"name": name, "address": address, "lifetime_seconds": parse_duration(ttl)}
    with server() as api:
        made = api.post("/v1/cluster/store/witness", body)

    def people(out: Console) -> None:
        output.note(f"Lets {made['name']} ask once, until {made['expires'][:19].replace('T', ' ')} UTC. On it, run:")
        output.note("portico witness install TOKEN")
        out.print(made["token"], soft_wrap=True, markup=False)

    output.show(made, people)


@witness_app.command("remove")
def remove_witness(yes: output.Yes = False, json: output.Json = False) -> None:
    """Take the witness out, also one that does not answer. On it: `portico witness uninstall`.

    Example: `portico cluster store witness remove`
    """
    output.confirm("Take the witness out? etcd is then on the first of two servers alone.", yes=yes)
    _changed("/v1/cluster/store/witness/remove", {}, "There is no witness now")


def _changed(path: str, body: dict[str, Any], text: str) -> None:
    with server() as api:
        found = api.post(path, {**body, "author": author()})
    number = (found.get("revision") or {}).get("number")
    output.show(found, lambda out: out.print(f"{text}, with revision {number}."))


def _show(out: Console, found: dict[str, Any]) -> None:
    if found["kind"] == "sqlite":
        out.print("The servers decide about changes among themselves (store.kind: sqlite).", markup=False)
    else:
        where = "an existing etcd" if found["existing"] else f"etcd on {', '.join(found['voters'])}"
        out.print(f"Changes are decided by {where}, generation {found['generation']}.", markup=False)
        if not found["existing"]:
            out.print(f"  ({found['voters_why']})", markup=False)
    out.print(f"Newest revision on {found['answered_by']}: {found['revision']}", markup=False)
    if found["read_only"] or not found["quorum"]:
        out.print("Settings are read-only now.", style="red")
    if found["members"]:
        rows = [
            (
                f"{item['name'] or '?'}{' (witness)' if item['witness'] else ''}",
                item["endpoint"],
                item["state"],
                item["version"] or "",
                f"{item['bytes'] / 1e6:.1f} MB" if item["bytes"] is not None else "",
                item["trouble"],
            )
            for item in found["members"]
        ]
        out.print(output.table(["Member", "Endpoint", "State", "Version", "Size", "Trouble"], rows))
    witness = found["witness"]
    if witness is not None:
        silent = witness["silent_seconds"]
        heard = "it rests" if silent is None else f"heard {silent:.0f} s ago"
        out.print(f"Witness: {witness['name']} at {witness['address']}, {heard}", markup=False)
    process = found["process"]
    if process is not None and process["state"] != "stopped":
        reason = f": {process['reason']}" if process["reason"] else ""
        out.print(f"etcd here: {process['state']}{reason}", markup=False)
    if found["problem"]:
        problem = found["problem"]
        out.print(f"[red]{escape(problem['what'])}[/]: {escape(problem['why'])}. {escape(problem['resolution'])}")
