"""The command line's frame: one group per subject, one module per group.

A group is added when its module exists and is imported only here, so that a broken optional part names itself instead
of taking the whole command line down.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

from portico import __version__
from portico.management.cli import exit_codes, target
from portico.management.cli.output import PorticoGroup
from portico.management.cli.script import add_script

app = typer.Typer(
    name="portico",
    cls=PorticoGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=exit_codes.HELP,
)

_GROUPS = (
    ("server", "The Remote Access server on this machine."),
    ("settings", "What the administrator decided: show, change, compare, restore."),
    ("clients", "Remote computers: who is connected, disconnect, revoke."),
    ("users", "Users of remote computers: who has authenticated, revoke."),
    ("management-servers", "Servers that computers reach before their user has authenticated."),
    ("ca", "Certificates: the built-in CA, enrolment tokens, revocation."),
    ("nat64", "Access to IPv4-only servers: who has which address and port, now and before."),
    ("dns64", "The DNS server of the clients: counters, cache, and why a name resolves as it does."),
    ("dns", "The deployment's records in the corporate DNS: check, print, write."),
    ("lb", "Load balancing: several servers share one entrance."),
    ("cluster", "The servers that share it now: states, buckets, clients; start, stop, drain."),
    ("client", "This machine as a remote computer."),
    ("witness", "This machine as the witness of a cluster of two servers."),
    ("admin", "Who administers the cluster: tokens, certificates, sessions."),
    ("backup", "One encrypted file of everything that the service needs: create, verify, show."),
    ("audit", "What was changed, by whom, from where."),
)

# Commands without a group: name, module and function.
_COMMANDS = (
    ("check", "check", "check"),
    ("plan", "check", "plan"),
    ("health", "health", "health"),
    ("events", "health", "events"),
    ("import", "windows", "take"),
    ("restore", "backup", "restore"),
    ("connect", "sessions", "connect"),
    ("login", "sessions", "login"),
    ("logout", "sessions", "logout"),
    ("whoami", "sessions", "whoami"),
    ("cmdlet", "cmdlet", "cmdlet"),
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"portico {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    remote: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="NAME|URL",
            envvar="PORTICO_SERVER",
            help="The cluster to talk to, by the name that `portico connect` gave it or its URL; else this machine.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="SERVER", help="The server of that cluster that answers, where each has its own."),
    ] = None,
) -> None:
    """Portico: remote computers are on the intranet, always, over IP-HTTPS.

    Start with `portico server install` on the server, `portico ca token create --name NAME` for each remote computer,
    and `portico client enrol TOKEN` on it. `portico lab up` builds a whole deployment on one machine to play with.
    """
    target.choose(remote, on)


def wanted(group: str) -> bool:
    """Whether this command line can need a group: its first word is the group's name, or no group's.

    A group brings the libraries of its subject; `portico settings show` takes a third of the time without the others'.
    """
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    return first == group or first not in (*(name for name, _ in _GROUPS), *(name for name, *_ in _COMMANDS), "lab")


def _add_groups() -> None:
    for name, text in _GROUPS:
        module = f"{__package__}.{name.replace('-', '_')}"
        if wanted(name) and find_spec(module) is not None:
            group = import_module(module).app
            add_script(group, name)
            app.add_typer(group, name=name, help=text, no_args_is_help=True)
    for name, module, function in _COMMANDS:
        if wanted(name):
            app.command(name)(getattr(import_module(f"{__package__}.{module}"), function))


_add_groups()
