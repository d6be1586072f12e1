"""`portico witness`: install, status, run, uninstall. This machine as the witness of a cluster of two servers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from portico import paths
from portico.errors import Conflict, PorticoError
from portico.management.cli import output
from portico.server.install import systemd_runs
from portico.server.peers.tokens import JoinToken
from portico.server.witness import joining
from portico.server.witness.witness import Witness, read_status

app = typer.Typer()


@app.command()
def install(
    token: Annotated[
        str,
        typer.Argument(help="What 'portico cluster store witness add' printed on a server; '-' reads it from stdin."),
    ],
    yes: output.Yes = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make this machine the witness of a cluster of two servers, with a token that one of them made.

    It runs a member of etcd and nothing else: no gateway, no settings of its own. It needs the package etcd-server, and
    TCP ports 2379, 2380 and 2505 between it and the servers.

    Example: `portico witness install TOKEN`
    """
    state = paths.witness_state()
    joining.refuse_second(state)
    parsed = JoinToken.parse(sys.stdin.read(8192) if token == "-" else token)  # noqa: S105  # "-" is stdin
    asked, _ = asyncio.run(joining.look(parsed))
    steps = [step for step in joining.install_steps(parsed, state) if step.needed()]
    if dry_run:
        output.show(
            {"dry_run": True, "name": parsed.name, "server": asked, "steps": [step.name for step in steps]},
            lambda out: out.print("\n".join(f"Would: {escape(step.name)}" for step in steps)),
        )
        return
    output.require_root("Cannot install the witness")
    output.confirm(f"Make this machine {parsed.name}, the witness of the cluster of {asked}?", yes=yes)
    progress = output.Progress()
    for step in steps:
        with progress.step(step.name) as detail:
            detail(step.do())
    result = {"installed": True, "name": parsed.name, "server": asked, "steps": progress.steps}
    output.show(result, lambda out: out.print(f"\n{escape(parsed.name)} is the witness: portico witness status"))


@app.command()
def status(json: output.Json = False) -> None:
    """Show whether this machine takes part in etcd, and what keeps it from that.

    Example: `portico witness status`
    """
    found = read_status(paths.witness_state(), _alive)

    def people(out: Console) -> None:
        process = found.get("process") or {}
        fields = {
            "Witness": found["name"],
            "Runs": "yes" if found["running"] else "no",
            "Told by": found.get("told_by"),
            "Servers": ", ".join(found.get("servers", ())) or None,
            "To be a member": "yes" if found.get("member") else "no",
            "etcd": process.get("state") if found["running"] else None,
        }
        out.print(output.fields(fields))
        if found.get("problem"):
            problem = found["problem"]
            out.print(f"[red]{escape(problem['what'])}[/]: {escape(problem['why'])}. {escape(problem['resolution'])}")

    output.show(found, people)


@app.command()
def run(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False) -> None:
    """Run the witness in the foreground; what the systemd unit runs, under an account without privileges.

    Example: `portico witness run --verbose`
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(_run())


@app.command()
def uninstall(yes: output.Yes = False, dry_run: output.DryRun = False, json: output.Json = False) -> None:
    """Take the witness off this machine: its unit, its member of etcd with all data, its key.

    On a server, before or after: `portico cluster store witness remove`.

    Example: `portico witness uninstall --dry-run`
    """
    state = paths.witness_state()
    steps = [step for step in joining.uninstall_steps(state) if step.needed()]
    if dry_run:
        output.show(
            {"dry_run": True, "steps": [step.name for step in steps]},
            lambda out: out.print("\n".join(f"Would: {escape(step.name)}" for step in steps)),
        )
        return
    output.require_root("Cannot take the witness off")
    _refuse_running()
    output.confirm("Take the witness off this machine?", yes=yes)
    progress = output.Progress()
    for step in steps:
        with progress.step(step.name) as detail:
            detail(step.do())
    output.show({"uninstalled": True, "steps": progress.steps}, lambda out: None)


def _refuse_running() -> None:
    """One that systemd runs is stopped by a step; another one must be ended first."""
    if systemd_runs():
        return
    try:
        found = read_status(paths.witness_state(), _alive)
    except PorticoError:
        return  # what is damaged or half made is taken off too
    if found["running"]:
        raise Conflict(
            "The witness still runs",
            why=f"process {found['pid']} was not started by systemd",
            resolution="End 'portico witness run' where it runs, then repeat this",
        )


async def _run() -> None:
    witness = Witness(paths.witness_state())
    task = asyncio.ensure_future(witness.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
