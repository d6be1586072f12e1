"""`portico lab`: a whole deployment on this machine, to play with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from portico.errors import InvalidInput, PorticoError
from portico.lab import deployment, faults, state, summary, switch
from portico.lab import pcap as recording
from portico.lab.console import console as shell
from portico.lab.console import replace_with
from portico.lab.hosts import LabFailure
from portico.lab.lab import Lab, check_prerequisites, destroy
from portico.lab.links import SWITCH
from portico.lab.topology import MAX_CLIENTS, MAX_SERVERS, Switch, build, one_server
from portico.management.cli import output

app = typer.Typer(no_args_is_help=True)


def _starting(names: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    """Completion of a word from a list of names."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def _hosts_of_the_lab(context: typer.Context, incomplete: str) -> list[str]:
    """Completion of a host of the lab that the command line names, or of the smallest when it does not run."""
    try:
        topology = state.load(str(context.params.get("name") or "portico")).topology
    except PorticoError:
        topology = one_server()
    return [computer.name for computer in topology.hosts if computer.name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Option(
        "--name",
        envvar="PORTICO_LAB",
        help="Which lab; several run side by side.",
        autocompletion=_starting(state.names),
    ),
]
HostName = Annotated[
    str,
    typer.Argument(
        help="A host: client1, nat1, internet, da1, dns, app4, app6, mgmt; `portico lab status` lists them.",
        autocompletion=_hosts_of_the_lab,
    ),
]
Interface = Annotated[str, typer.Argument(help="An interface of the host, for example eth0.")]


def _timed(progress: output.Progress) -> Callable[[str], object]:
    @contextmanager
    def step(text: str) -> Iterator[None]:
        started = time.monotonic()
        with progress.step(text) as detail:
            yield
            detail(f"{time.monotonic() - started:.2f} s")

    return step


@app.command()
def up(
    name: Name = "portico",
    servers: Annotated[int, typer.Option(help=f"Remote Access servers, up to {MAX_SERVERS}.")] = 1,
    clients: Annotated[int, typer.Option(help=f"Remote computers, each behind its own NAT, up to {MAX_CLIENTS}.")] = 1,
    switch_kind: Annotated[
        Switch, typer.Option("--switch", help="pruning: sends multicast frames to members only, by their MAC.")
    ] = Switch.PLAIN,
    strict_router: Annotated[
        bool, typer.Option("--strict-router", help="Routers refuse multicast MACs until a static entry is made.")
    ] = False,
    bare: Annotated[bool, typer.Option("--bare", help="Networks and intranet only, without Portico.")] = False,
    as_json: output.Json = False,
) -> None:
    """Start a deployment, connect its client, and show what works. It keeps running until `portico lab down`.

    Example: `portico lab up --name second`

    Example: `portico lab up --servers 3 --switch pruning --bare`
    """
    topology = build(servers, clients, switch=switch_kind, strict_router=strict_router)
    if not bare:
        deployment.check(topology)
    progress = output.Progress()
    step = _timed(progress)
    started = time.monotonic()
    lab = Lab.create(name, topology, step=step)  # type: ignore[arg-type]
    results: list[summary.Result] = []
    if not bare:
        deployment.deploy(lab, step)  # type: ignore[arg-type]
        with progress.step("What works, seen from client1"):
            results = summary.measure(lab)
    _show_summary(lab, results, progress, time.monotonic() - started)
    failed = [result.name for result in results if not result.works]
    if failed:
        raise LabFailure(
            "The lab runs, but not everything in it works",
            why=", ".join(failed),
            resolution=f"Logs are in {lab.state.disks}/HOST/var/log; remove it with: portico lab down --name {name}",
        )


@app.command()
def down(name: Name = "portico", as_json: output.Json = False) -> None:
    """End a lab and remove everything it made, and nothing else. Also cleans up after a lab that crashed.

    Example: `portico lab down --name second`
    """
    check_prerequisites()
    was_there = destroy(name)
    output.show(
        {"name": name, "removed": was_there},
        lambda out: out.print(f"The lab {name} is gone." if was_there else f"There was no lab {name}."),
    )


@app.command()
def status(name: Name = "portico", as_json: output.Json = False) -> None:
    """Hosts, addresses, what runs where.

    Example: `portico lab status`
    """
    lab = Lab.open(name)
    rows: list[dict[str, Any]] = []
    for computer in lab.topology.hosts:
        host = lab.host(computer.name)
        still = faults.frozen(host)
        # Whoever would say what runs on a frozen host is frozen himself.
        services = host.services() if host.alive and not still else []
        rows.append(
            {
                "host": computer.name,
                "state": "frozen" if still else "running" if host.alive else "dead",
                "addresses": [f"{card.name} {address}" for card in computer.interfaces for address in card.addresses],
                "services": services,
                "about": computer.about,
            }
        )
    wrong = switch.faults(lab.state) if lab.host(SWITCH).alive else []
    document = {
        "name": name,
        "started": lab.state.started,
        "servers": lab.topology.servers(),
        "clients": lab.topology.clients(),
        "pruning": list(lab.topology.pruning),
        "cut": lab.state.cut,
        "faults": wrong,
        "hosts": rows,
    }
    output.show(
        document,
        lambda out: out.print(
            output.table(
                ("Host", "State", "Addresses", "Runs", "What it is"),
                (
                    (
                        row["host"],
                        row["state"],
                        "\n".join(row["addresses"]),
                        "\n".join(_service_text(service) for service in row["services"]),
                        row["about"],
                    )
                    for row in rows
                ),
                title=f"Lab {name}"
                + (f", cut: {', '.join(lab.state.cut)}" if lab.state.cut else "")
                + (f", faults of the switch: {', '.join(wrong)}" if wrong else ""),
            )
        ),
    )


@app.command("list")
def list_labs(as_json: output.Json = False) -> None:
    """Labs on this machine.

    Example: `portico lab list`
    """
    names = state.names()
    output.show(names, lambda out: out.print("\n".join(names) or "No lab is running."))


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def execute(
    host: HostName,
    command: Annotated[list[str], typer.Argument(help="What to run there, after --.")],
    name: Name = "portico",
) -> None:
    """Run a command on a host; its exit status is this command's.

    Example: `portico lab exec client1 -- curl http://app4.corp.example.net/`
    """
    words = command[1:] if command[:1] == ["--"] else command
    if not words:
        raise InvalidInput("No command was given", resolution="Example: portico lab exec client1 -- ip route")
    replace_with(Lab.open(name).host(host), words)


@app.command()
def kill(host: HostName, name: Name = "portico", as_json: output.Json = False) -> None:
    """Cut a host's power: no process of it says goodbye. Its disk survives.

    Example: `portico lab kill da1`
    """
    Lab.open(name).kill(host)
    output.show({"host": host, "done": "kill"}, lambda _: None)
    output.note(f"{host} is dead. Start it again with: portico lab restart {host}" + _name_option(name))


@app.command()
def restart(host: HostName, name: Name = "portico", as_json: output.Json = False) -> None:
    """Start a host again, with what ran on it; one that runs loses its power first.

    Example: `portico lab restart da1`
    """
    Lab.open(name).restart(host)
    output.show({"host": host, "done": "restart"}, lambda _: None)
    output.note(f"{host} is running again.")


@app.command()
def cut(host: HostName, interface: Interface, name: Name = "portico", as_json: output.Json = False) -> None:
    """Pull a network cable.

    Example: `portico lab cut client1 eth0`
    """
    Lab.open(name).cut(host, interface)
    output.show({"host": host, "done": "cut"}, lambda _: None)
    output.note(f"{host} {interface} is cut. Plug it in with: portico lab heal {host} {interface}" + _name_option(name))


@app.command()
def heal(host: HostName, interface: Interface, name: Name = "portico", as_json: output.Json = False) -> None:
    """Plug a network cable in again.

    Example: `portico lab heal client1 eth0`
    """
    Lab.open(name).heal(host, interface)
    output.show({"host": host, "done": "heal"}, lambda _: None)


@app.command()
def freeze(host: HostName, name: Name = "portico", as_json: output.Json = False) -> None:
    """Stop every process of a host. Its kernel goes on: it answers pings and acknowledges what arrives.

    Example: `portico lab freeze da1`
    """
    count = Lab.open(name).freeze(host)
    output.show({"host": host, "done": "freeze", "processes": count}, lambda _: None)
    output.note(f"{host} is frozen. Let it go on with: portico lab thaw {host}" + _name_option(name))


@app.command()
def thaw(host: HostName, name: Name = "portico", as_json: output.Json = False) -> None:
    """Let the processes of a frozen host go on.

    Example: `portico lab thaw da1`
    """
    count = Lab.open(name).thaw(host)
    output.show({"host": host, "done": "thaw", "processes": count}, lambda _: None)
    output.note(f"{host} goes on.")


@app.command()
def load(
    host: HostName,
    seconds: Annotated[float, typer.Option(help=f"How long, up to {faults.MAX_LOAD_SECONDS:g}.")] = 60.0,
    name: Name = "portico",
    as_json: output.Json = False,
) -> None:
    """Keep every core of the machine busy from a host, until the time is over or Ctrl-C.

    Example: `portico lab load da1 --seconds 30`
    """
    with faults.loaded(Lab.open(name).host(host), seconds) as process:
        output.note(f"{host} is busy for {seconds:g} seconds.")
        process.wait()
    output.show({"host": host, "done": "load", "seconds": seconds}, lambda _: None)


@app.command()
def pcap(
    host: HostName,
    interface: Interface,
    to: Annotated[Path | None, typer.Option("--to", help="Record into this file instead of showing.")] = None,
    name: Name = "portico",
) -> None:
    """Show or record what an interface carries, until Ctrl-C.

    Example: `portico lab pcap da1 eth1`

    Example: `portico lab pcap da1 eth0 --to outside.pcap`

    Example: `portico lab pcap da1 eth0 | wireshark -k -i -`
    """
    raise typer.Exit(recording.follow(Lab.open(name).host(host), interface, to))


@app.command()
def console(host: HostName, name: Name = "portico") -> None:
    """A shell on a host.

    Example: `portico lab console client1`
    """
    raise typer.Exit(shell(Lab.open(name).host(host)))


def _name_option(name: str) -> str:
    return "" if name == "portico" else f" --name {name}"


def _service_text(service: dict[str, object]) -> str:
    if service["pid"] is not None:
        restarts = f", restarted {service['restarts']} times" if service["restarts"] else ""
        return f"{service['name']}{restarts}"
    return f"{service['name']}: ended with {service['status']}"


def _show_summary(lab: Lab, results: list[summary.Result], progress: output.Progress, seconds: float) -> None:
    document = {
        "name": lab.name,
        "servers": lab.topology.servers(),
        "clients": lab.topology.clients(),
        "seconds": round(seconds, 2),
        "steps": progress.steps,
        "results": [result.as_dict() for result in results],
    }

    def people(out: object) -> None:
        console = output.console()
        console.print()
        if results:
            console.print(
                output.table(
                    ("", "What", "Name", "Address", "Path", "ms", "Answer"),
                    (
                        (
                            "works" if result.works else "FAILS",
                            result.what,
                            result.name,
                            result.address,
                            result.path,
                            result.milliseconds,
                            result.answer,
                        )
                        for result in results
                    ),
                )
            )
        count = len(lab.topology.servers())
        what = f"The lab {lab.name}" + (f" with {count} servers" if count > 1 else "")
        console.print(f"{what} is running (started in {seconds:.1f} s). Try:")
        for line in summary.what_to_try(lab, bare=not results):
            console.print(f"  {line}", soft_wrap=True)
        console.print(f"and remove it with: {summary.command()} lab down{_name_option(lab.name)}")

    output.show(document, people)
