"""`portico lb`: enable, disable, mode, add, progress, remove, servers, show."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.management.cli import additions, output
from portico.management.cli.connection import author, completed, server
from portico.management.cli.settings import Comment, ask, print_applied, print_difference
from portico.management.cli.times import parse_duration

app = typer.Typer()


class Mode(StrEnum):
    UNICAST = "unicast"
    MULTICAST = "multicast"
    IGMP_MULTICAST = "igmp_multicast"


class StoreKind(StrEnum):
    SQLITE = "sqlite"
    ETCD = "etcd"


_servers = completed(lambda api: [s["name"] for s in api.get("/v1/load-balancing")["servers"]])

InternetDip = Annotated[
    list[str] | None,
    typer.Option(
        "--internet-dedicated-address",
        help="Address with length of this server on the Internet interface; may be repeated.",
    ),
]
InternalDip = Annotated[
    list[str] | None,
    typer.Option("--internal-dedicated-address", help="The same on the internal interface; may be repeated."),
]


@app.command()
def enable(
    internet_dedicated_address: Annotated[
        list[str],
        typer.Option(
            help="New address with length for this server's Internet interface: 203.0.113.12/24; may be repeated. "
            "With a single interface all of them.",
        ),
    ],
    internal_dedicated_address: InternalDip = None,
    internet_virtual_address: Annotated[
        list[str] | None,
        typer.Option(help="Virtual address of the Internet side; without it the interface's addresses become virtual."),
    ] = None,
    internal_virtual_address: Annotated[list[str] | None, typer.Option(help="The same for the internal side.")] = None,
    mode: Annotated[Mode, typer.Option(help="How one frame reaches every server.")] = Mode.UNICAST,
    store: Annotated[
        StoreKind,
        typer.Option(help="What decides about changes of settings: the servers among themselves, or etcd on three."),
    ] = StoreKind.SQLITE,
    comment: Comment = "",
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make this server the first one of a cluster.

    Its existing addresses become the virtual addresses of the cluster, so clients and routers find it where it was, and
    it gets the dedicated ones that are given here. When anything fails everything is as it was before.

    With --store etcd this server also begins an etcd, which needs the package etcd-server; the second and third server
    of the cluster join it by themselves. `portico cluster store move` changes it later.

    Example: `portico lb enable --internet-dedicated-address 203.0.113.12/24 --internal-dedicated-address 10.0.0.12/24`

    Example: `portico lb enable --internet-dedicated-address '10.244.4.19 /255.255.255.0' --dry-run`
    """
    body: dict[str, Any] = {
        "internet_dedicated_addresses": internet_dedicated_address,
        "internal_dedicated_addresses": internal_dedicated_address or [],
        "internet_virtual_addresses": internet_virtual_address,
        "internal_virtual_addresses": internal_virtual_address,
        "mode": mode.value,
        "store": store.value,
    }
    _change("enable", body, comment, yes=yes, dry_run=dry_run)


@app.command()
def disable(
    comment: Comment = "", yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False
) -> None:
    """End load balancing. This server keeps the virtual addresses as its own; the others serve no longer.

    Example: `portico lb disable --dry-run`
    """
    _change("disable", {}, comment, yes=yes, dry_run=dry_run)


@app.command("mode")
def mode_command(
    mode: Annotated[Mode, typer.Argument(help="How one frame reaches every server.")],
    comment: Comment = "",
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Change how frames for the virtual addresses reach every server.

    Example: `portico lb mode igmp_multicast --dry-run`
    """
    _change("mode", {"mode": mode.value}, comment, yes=yes, dry_run=dry_run)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="SERVER", help="Name of the new server.")],
    internet_dedicated_address: InternetDip = None,
    internal_dedicated_address: InternalDip = None,
    weight: Annotated[int, typer.Option(help="Load weight.", min=0, max=100)] = 50,
    priority: Annotated[
        int | None, typer.Option(help="Unique priority; the lowest that is free when not given.", min=1, max=32)
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long the token works, for example 30m or 2h; a day at most.")] = "1h",
    follow: Annotated[
        bool | None,
        typer.Option(help="Then show how far it is, until it serves. Without either: when this is a terminal."),
    ] = None,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make a token with which a new server joins the cluster, once.

    Run what is printed on the new machine. Without addresses here it brings those that its interfaces have in the
    networks of the virtual ones. Ctrl-C ends the look at its progress and nothing else; `portico lb progress` looks
    again. With `--json --follow` each state is a line of JSON after the token's.

    Example: `portico lb add da2 --internet-dedicated-address 203.0.113.13/24 --internal-dedicated-address 10.0.0.13/24`
    """
    body: dict[str, Any] = {
        "name": name,
        "internet_dedicated_addresses": internet_dedicated_address or [],
        "internal_dedicated_addresses": internal_dedicated_address or [],
        "weight": weight,
        "priority": priority,
        "lifetime_seconds": parse_duration(ttl),
        "author": author(),
    }
    with server() as api:
        planned = api.post("/v1/peers/tokens", {**body, "dry_run": True})
        for problem in planned["problems"]:
            output.print_problem(output.stderr(), problem)
        if dry_run:
            output.show(planned, lambda out: additions.show_plan(out, planned))
            return
        if not output.wants_json():
            additions.show_plan(output.stderr(), planned)
        output.confirm(f"Make a token with which {name} joins the cluster?", yes=yes)
        made = api.post("/v1/peers/tokens", body)

    def people(out: Console) -> None:
        output.note(f"Lets {made['name']} join once, until {made['expires'][:19].replace('T', ' ')} UTC. On it, run:")
        output.note("portico server join TOKEN")
        out.print(made["token"], soft_wrap=True, markup=False)

    followed = follow if follow is not None else additions.somebody_looks()
    if not followed:
        output.show(made, people)
        return
    if output.wants_json():
        additions.print_line(made)
    else:
        people(output.console())
    additions.follow([name])


app.command("progress")(additions.progress)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="SERVER", help="Name of the server.", autocompletion=_servers)],
    lost: Annotated[
        bool, typer.Option("--lost", help="It is gone for good: go on without its vote. Never while it may still run.")
    ] = False,
    comment: Comment = "",
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Take a server out of the cluster. It stops serving and forgets its settings and keys.

    One that does not answer can never come back with what it has; it joins again with a new token.

    Example: `portico lb remove da2 --dry-run`
    """
    _change("remove", {"name": name, "lost": lost}, comment, yes=yes, dry_run=dry_run)


@app.command()
def show(json: output.Json = False) -> None:
    """Show virtual and dedicated addresses, port rules and servers as the settings have them.

    Example: `portico lb show --json`
    """
    with server() as api:
        found = api.get("/v1/load-balancing")
    output.show(found, lambda out: _show(out, found))


@app.command("servers")
def servers_command(json: output.Json = False) -> None:
    """Show which servers of the cluster can be reached from this one, and how far each is.

    Example: `portico lb servers --json`
    """
    with server() as api:
        found = api.get("/v1/peers")
    rows = [(found["name"], "this server", "", "", "leader" if found["leader"] == found["name"] else "")]
    rows += [
        (
            item["name"],
            "reachable" if item["reachable"] else "does not answer",
            item["applied"] or "",
            item["version"] or "",
            "leader" if found["leader"] == item["name"] else "",
        )
        for item in found["servers"]
    ]

    def people(out: Console) -> None:
        out.print(output.table(["Server", "State", "Revision", "Version", ""], rows))
        if not found["quorum"]:
            out.print("[yellow]Read-only:[/] too few servers can be reached to change settings.")

    output.show(found, people)


def _change(what: str, body: dict[str, Any], comment: str, *, yes: bool, dry_run: bool) -> None:
    path, body = f"/v1/load-balancing/{what}", {**body, "comment": comment, "author": author()}
    with server() as api:
        planned = api.post(path, {**body, "dry_run": True})
        if dry_run:
            output.show(planned, lambda out: _plan(out, planned))
            return
        if not output.wants_json():
            _advice(output.stderr(), planned)
        ask(planned, yes)
        outcome = api.post(path, body)
    output.show(outcome, lambda out: print_applied(out, outcome))


def _plan(out: Console, planned: dict[str, Any]) -> None:
    print_difference(out, planned)
    _advice(out, planned)


def _advice(out: Console, planned: dict[str, Any]) -> None:
    """What the network must do, with commands to paste; it keeps nothing from being applied."""
    for advice in planned.get("advice", ()):
        colour = {"error": "red", "warning": "yellow"}.get(advice["severity"], "cyan")
        out.print(
            f"[{colour}]{advice['severity']}[/] {escape(advice['interface'])}, {escape(advice['platform'])}: "
            f"{escape(advice['what'])}: {escape(advice['why'])}. [dim]({advice['code']})[/]"
        )
        for commands in advice["commands"]:
            out.print(f"    {commands['where']}:", markup=False)
            for line in commands["lines"]:
                out.print(f"        {line}", markup=False, soft_wrap=True, highlight=False)


def _show(out: Console, found: dict[str, Any]) -> None:
    out.print(
        output.fields(
            {
                "Mode": found["mode"],
                "Internet VIPs": found["internet_virtual_addresses"] or None,
                "Internal VIPs": found["internal_virtual_addresses"],
                "Client addresses": found["client_addresses"],
                "Heartbeats": f"every {found['heartbeat_milliseconds']} ms, gone after {found['missed_heartbeats']}",
                "Filter": found["filter"],
                "This server": found["own_name"],
            }
        )
    )
    servers = [
        (
            item["name"],
            item["priority"],
            item["weight"],
            item["state"],
            ", ".join(item["internet_dedicated_addresses"]),
            ", ".join(item["internal_dedicated_addresses"]),
        )
        for item in found["servers"]
    ]
    columns = ["Server", "Priority", "Weight", "To be", "Internet DIPs", "Internal DIPs"]
    out.print(output.table(columns, servers))
    rules = [
        (
            item["virtual_address"],
            item["protocol"],
            f"{item['first_port']}-{item['last_port']}",
            item["mode"],
            item["affinity"] if item["mode"] == "multiple" else "",
            f"{item['timeout_minutes']} min" if item["timeout_minutes"] else "",
        )
        for item in found["port_rules"]
    ]
    columns = ["Address", "Protocol", "Ports", "Mode", "Affinity", "Extended"]
    out.print(output.table(columns, rules, empty="No port rules: the default host takes everything."))
