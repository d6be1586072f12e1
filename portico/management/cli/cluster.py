"""`portico cluster`: status, watch, explain, start, stop, drain, suspend, resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from portico.errors import NotFound
from portico.management.cli import output, store, upgrade
from portico.management.cli.connection import completed, server

app = typer.Typer()
app.command("upgrade")(upgrade.turns)
app.add_typer(store.app, name="store", help="Where revisions of the settings are decided.", no_args_is_help=True)

BUCKETS_IN_A_LINE = 60
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red", "bright_white", "bright_black")
_STATES = {"Default": "green", "Converged": "green", "Converging": "yellow", "Draining": "yellow"}
_LAST_EVENTS = 8
_OUTCOMES = {
    "accepted": "Accepted by {server}.",
    "all": "Taken by every server.",
    "kept": "Accepted by {server} if it holds the connection.",
    "refused": "Dropped by every server: a rule refuses it.",
    "dropped": "Dropped: no server takes it now.",
    "unowned": "Dropped: nobody owns its bucket.",
    "passed": "Not balanced.",
}

_servers = completed(lambda api: [s["name"] for s in api.get("/v1/cluster")["servers"]])
Server = Annotated[str, typer.Argument(metavar="SERVER", help="Name of the server.", autocompletion=_servers)]


@app.command()
def status(json: output.Json = False) -> None:
    """Show servers, their states, who owns which of the 60 buckets, and clients for each server.

    Example: `portico cluster status --json`
    """
    with server() as api:
        found = api.get("/v1/cluster")
    output.show(found, lambda out: _show(out, found))


@app.command()
def watch(
    interval: Annotated[float, typer.Option("--interval", help="Seconds between looks.", min=0.1, max=3600)] = 1.0,
    json: output.Json = False,
) -> None:
    """Show the same again and again until Ctrl-C; with `--json` one document a line of time.

    Example: `portico cluster watch --interval 0.5`
    """
    while True:
        with server() as api:
            found = api.get("/v1/cluster")
        if not output.wants_json():
            output.console().clear()
        output.show(found, lambda out, found=found: _show(out, found))  # type: ignore[misc]
        try:
            time.sleep(interval)
        except KeyboardInterrupt:
            return


@app.command()
def explain(
    source: Annotated[str, typer.Option("--from", metavar="ADDRESS[:PORT]", help="Where the packet comes from.")],
    destination: Annotated[str, typer.Option("--to", metavar="VIP[:PORT]", help="Where it goes.")],
    protocol: Annotated[str, typer.Option("--proto", help="tcp, udp, esp, icmp, icmpv6 or a protocol number.")] = "tcp",
    established: Annotated[
        bool, typer.Option("--established", help="It belongs to a TCP connection that is there already.")
    ] = False,
    json: output.Json = False,
) -> None:
    """Tell whether this cluster accepts a packet, which server takes it, and why.

    An IPv6 address with a port is written in brackets: `[2001:db8::7]:443`.

    Example: `portico cluster explain --from 198.51.100.7:40000 --to 203.0.113.10:443 --proto tcp`
    """
    body = {"source": source, "destination": destination, "protocol": protocol, "established": established}
    with server() as api:
        found = api.post("/v1/cluster/explain", body)

    def people(out: Console) -> None:
        out.print(_OUTCOMES[found["outcome"]].format(server=found["server"] or "a server"), markup=False)
        for reason in found["reasons"]:
            out.print(f"  {reason}", markup=False, soft_wrap=True)
        out.print(f"Answered by {found['answered_by']}.", markup=False, style="dim")

    output.show(found, people)


@app.command()
def start(name: Server, json: output.Json = False) -> None:
    """Let a server join and take its share of new clients.

    Example: `portico cluster start da2`
    """
    _command("start", name)


@app.command()
def stop(name: Server, yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Give a server's buckets to the others now; its clients dial again.

    Example: `portico cluster stop da2 --dry-run`
    """
    with server() as api:
        found = api.get("/v1/cluster")
    clients = found.get("directory", {}).get(name, 0)
    addresses = "1 client address" if clients == 1 else f"{clients} client addresses"
    if dry_run:
        known = [item for item in found["servers"] if item["name"] == name]
        if not known:
            raise NotFound(
                f"There is no server {name} to stop",
                why="the cluster has no server of this name",
                resolution="List them with: portico cluster status",
                code="NO_SUCH_SERVER",
            )
        buckets = sum(known[0]["buckets"][1:])
        text = f"Would stop {name}: the others get its {buckets} buckets and, as they dial again, its {addresses}."
        plan = {"dry_run": True, "would": "stop", "server": name, "clients": clients, "buckets": buckets}
        output.show(plan, lambda out: out.print(text, markup=False))
        return
    output.confirm(f"Stop {name}? It holds {addresses}; these clients dial again, to another server.", yes=yes)
    _command("stop", name)


@app.command()
def drain(name: Server, json: output.Json = False) -> None:
    """Let a server take nothing new and stop when its last connection has ended (drainstop).

    Example: `portico cluster drain da2`
    """
    _command("drain", name)


@app.command()
def suspend(name: Server, json: output.Json = False) -> None:
    """Stop a server, and let it ignore every command but resume.

    Example: `portico cluster suspend da2`
    """
    _command("suspend", name)


@app.command()
def resume(name: Server, json: output.Json = False) -> None:
    """End a suspension; the server is stopped then and can be started.

    Example: `portico cluster resume da2`
    """
    _command("resume", name)


def _command(command: str, name: str) -> None:
    with server() as api:
        found = api.post("/v1/cluster/command", {"command": command, "server": name})
    output.show(found, lambda out: _show(out, found))


def _show(out: Console, found: dict[str, Any]) -> None:
    clients = found.get("directory", {})
    rows = [
        (
            item["name"],
            item["priority"],
            item["state"] or "not heard",
            ", ".join(item["conditions"]),
            item["weight"] if item["weight"] is not None else "",
            "/".join(map(str, item["buckets"][1:])),
            clients.get(item["name"], 0),
            ", ".join(item["paths"]),
            item.get("version") or "",
        )
        for item in found["servers"]
    ]
    columns = ["Server", "Priority", "State", "Conditions", "Weight", "Buckets", "Clients", "Heard on", "Version"]
    out.print(output.table(columns, rows))
    names = {item["priority"]: item["name"] for item in found["servers"]}
    for rule in found["rules"]:
        out.print(_picture(rule, names))
    converged = "converged" if found["converged"] else "converging"
    out.print(f"\nMap {found['map_version']}, {converged}; {found['mode']}, filter {found['filter']}")
    if found["filter_why"]:
        out.print(f"  ({found['filter_why']})", markup=False)
    closed = {name: count for name, count in found["tunnels_closed"].items() if count}
    if closed:
        counts = ", ".join(f"{count} {name}" for name, count in closed.items())
        out.print(f"Tunnels closed here, their addresses being held by another server: {counts}")
    if found["problem"]:
        out.print(f"Problem: {found['problem']}", style="red", markup=False)
    for event in found["events"][-_LAST_EVENTS:]:
        rest = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("at", "kind"))
        out.print(f"{output.time_text(event['at'])}  {event['kind']}  {rest}", markup=False, style="dim")


def _picture(rule: dict[str, Any], names: dict[int, str]) -> Text:
    """Sixty cells, one a bucket, in the colour and with the number of the server that owns it."""
    colour: Callable[[int], str] = lambda owner: _COLOURS[(owner - 1) % len(_COLOURS)] if owner else "dim"  # noqa: E731
    text = Text(f"\n{rule['rule']}: ")
    owners = rule["owners"]
    for owner in sorted(set(owners) - {0}):
        text.append(f"{owner} {names.get(owner, '?')}  ", style=colour(owner))
    text.append("\n")
    for owner in owners:
        text.append(str(owner % 10) if owner else ".", style=f"{colour(owner)} reverse" if owner else "dim")
    return text
