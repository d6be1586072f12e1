"""`portico server join`: this machine becomes a server of a cluster that is there."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from portico import paths
from portico.errors import InvalidInput, PorticoError
from portico.management.cli import output
from portico.server import install
from portico.server.facts import read_facts
from portico.server.peers.joining import Joining
from portico.server.peers.tokens import JoinToken
from portico.settings.addresses import format_interface
from portico.settings.facts import Facts


def join(
    token: Annotated[
        str, typer.Argument(help="What 'portico lb add' printed on a server of the cluster; '-' reads it from stdin.")
    ],
    internet_interface: Annotated[str | None, typer.Option(help="Network interface to the Internet.")] = None,
    internal_interface: Annotated[str | None, typer.Option(help="Network interface to the intranet.")] = None,
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make this machine a server of a cluster, with a token that one of its servers made.

    It gets the settings, the certification authority and the keys of the cluster. When it is interrupted, repeat it
    with the same token. Give '-' as token where others can see the command lines of this machine.

    Example: `portico server join TOKEN --internet-interface eth0 --internal-interface eth1`

    Example: `portico server join - --dry-run`
    """
    state = paths.server_state()
    install.refuse_second_installation(state)
    facts = read_facts()
    parsed = JoinToken.parse(sys.stdin.read(8192) if token == "-" else token)  # noqa: S105  # "-" is stdin
    internet, internal = _interfaces(facts, internet_interface, internal_interface)
    addresses = {
        name: [format_interface(address) for address in item.addresses]
        for name, item in (facts.interfaces or {}).items()
        if name in (internet, internal)
    }
    joining = Joining(parsed, state, internet, internal, addresses)
    asked = joining.look()
    steps = [step for step in install.join_steps(joining, state) if step.needed()]
    if dry_run:
        output.show(
            {"dry_run": True, "name": parsed.name, "server": asked, "steps": [step.name for step in steps]},
            lambda out: out.print("\n".join(f"Would: {escape(step.name)}" for step in steps)),
        )
        return
    output.require_root("Cannot join the cluster")
    output.confirm(f"Join the cluster of {asked} as {parsed.name}?", yes=yes)
    progress = output.Progress()
    try:
        for step in steps:
            with progress.step(step.name) as detail:
                joining.report(step.name)
                detail(step.do())
    except PorticoError as error:
        joining.report("", error)
        if joining.revision is not None and not (state / "settings.sqlite").exists():
            _abandon(joining)
        raise
    result = {"joined": True, "name": parsed.name, "server": asked, "steps": progress.steps}

    def people(out: Console) -> None:
        out.print(f"\n{escape(parsed.name)} is a server of the cluster. Start it with: portico server start")

    output.show(result, people)


def _abandon(joining: Joining) -> None:
    try:
        joining.abandon()
    except PorticoError as error:
        output.warn(f"The cluster still has {joining.name}: {error}")


def _interfaces(facts: Facts, internet: str | None, internal: str | None) -> tuple[str, str]:
    """The two interfaces as given; a machine with a single one needs no options."""
    names = [name for name, item in (facts.interfaces or {}).items() if item.up and name != "lo"]
    if internet is None and internal is None and len(names) == 1:
        return names[0], names[0]
    if internet is None or internal is None:
        raise InvalidInput(
            "The interfaces are not given",
            why=f"this machine has {', '.join(names) or 'none that is up'}",
            resolution="Give --internet-interface and --internal-interface, the same name twice for a single one",
        )
    for name in (internet, internal):
        if facts.interfaces is not None and name not in facts.interfaces:
            raise InvalidInput(f"There is no interface {name}", why=f"this machine has {', '.join(names)}")
    return internet, internal
