"""`portico cmdlet`: lines in PowerShell's syntax."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from portico.errors import InvalidInput, PorticoError
from portico.files import read_file
from portico.management.cli import output
from portico.management.cli.connection import author, server
from portico.management.client import Portico
from portico.management.cmdlets import values
from portico.management.cmdlets.cmdlet import Context, cmdlets, resolve
from portico.management.cmdlets.documentation import help_text
from portico.management.cmdlets.local import ThisMachine
from portico.management.cmdlets.parser import MAXIMUM_SIZE
from portico.management.cmdlets.session import Session


class _Terminal:
    """Results go to stdout, everything said on the way to stderr."""

    def __init__(self, yes: bool) -> None:
        self._yes = yes

    def verbose(self, text: str) -> None:
        for line in text.splitlines() or [""]:
            sys.stderr.write(f"VERBOSE: {line}\n")

    def warning(self, text: str) -> None:
        sys.stderr.write(f"WARNING: {text}\n")

    def information(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def error(self, error: PorticoError) -> None:
        output.print_error(error)

    def confirm(self, question: str) -> None:
        output.confirm(question, yes=self._yes)


def _complete(incomplete: str) -> list[str]:
    """The cmdlet's name, or its parameters behind it."""
    head, blank, last = incomplete.rpartition(" ")
    stage = head.rpartition("|")[2].split() if blank else []
    if not stage:
        names = [found.name for found in cmdlets() if found.name.lower().startswith(last.lower())]
        return [f"{head}{blank}{name}" for name in names]
    found_cmdlet = resolve(stage[0])
    if found_cmdlet is None or not last.startswith("-"):
        return []
    wanted = last[1:].lower()
    return [f"{head} -{p.name}" for p in found_cmdlet.parameters if p.name.lower().startswith(wanted) and not p.missing]


def _names(incomplete: str) -> list[str]:
    return [found.name for found in cmdlets() if found.name.lower().startswith(incomplete.lower())]


def cmdlet(
    line: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LINE]", help="What to run, in quotes. Without it: stdin.", autocompletion=_complete),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A script.", exists=False)] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the cmdlets.")] = False,
    help_for: Annotated[
        str | None, typer.Option("--help-for", metavar="NAME", help="Show a cmdlet's help.", autocompletion=_names)
    ] = None,
    yes: output.Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="As -WhatIf for every cmdlet that changes.")] = False,
    json: output.Json = False,
) -> None:
    """Run Remote Access cmdlets in PowerShell's syntax, as they are pasted.

    Example: `portico cmdlet 'Get-RemoteAccessLoadBalancer | Format-List'`

    Example: `portico cmdlet --file script.ps1 --json`

    Example: `portico cmdlet --help-for Set-RemoteAccessLoadBalancer`
    """
    if list_:
        found = [{"name": c.name, "synopsis": c.synopsis, "supported": not c.missing} for c in cmdlets()]
        rows = [(c["name"], c["synopsis"], "" if c["supported"] else "not built") for c in found]
        output.show(found, lambda out: out.print(output.table(["Cmdlet", "Does", ""], rows)))
        return
    if help_for is not None:
        known = resolve(help_for)
        if known is None:
            raise InvalidInput(
                f"There is no cmdlet {help_for}", resolution="List them: portico cmdlet --list", code="CMDLET_NOT_FOUND"
            )
        text = help_text(known)
        output.show({"name": known.name, "help": text}, lambda out: out.print(text, markup=False, highlight=False))
        return
    _run(_script(line, file), yes=yes, dry_run=dry_run)


def _script(line: list[str] | None, file: Path | None) -> str:
    if line and file is not None:
        raise InvalidInput(
            "Two scripts are given", why="a line and --file", resolution="Leave one of them out", code="CMDLET_ERROR"
        )
    if line:
        return " ".join(line)
    try:
        if file is not None:
            return read_file(file, limit=4 * MAXIMUM_SIZE).decode("utf-8-sig")
        if sys.stdin.isatty():
            raise InvalidInput(
                "There is nothing to run",
                why="no line, no --file, and nothing comes from stdin",
                resolution="For example: portico cmdlet Get-RemoteAccess",
                code="CMDLET_ERROR",
            )
        return sys.stdin.buffer.read(4 * MAXIMUM_SIZE + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            "The script is not text", why=f"byte {error.start} is not UTF-8", resolution="Save it as UTF-8 text"
        ) from None


def _run(text: str, *, yes: bool, dry_run: bool) -> None:
    terminal = output.console()
    context = Context(
        connect=lambda: Portico(server(), author=author()),
        host=_Terminal(yes),
        author=author(),
        local=ThisMachine(author()),
        width=terminal.width if terminal.is_terminal else None,
        always_dry=dry_run,
    )
    with Session(context) as session:
        if output.wants_json():
            found: list[Any] = [values.plain(item) for results in session.results(text) for item in results]
            output.print_json(found)
            return
        for shown in session.shown(text):
            sys.stdout.write(shown)
