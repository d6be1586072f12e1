"""`portico client export` and `portico import`: policy for Windows clients, settings of a Windows deployment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from portico.errors import Conflict, InvalidInput
from portico.files import not_written, read_file, write_file
from portico.management.cli import output
from portico.management.cli.connection import server
from portico.settings.document import dump, load, load_data, load_file
from portico.settings.edit import assign
from portico.settings.effective import effective
from portico.settings.localise import localise
from portico.settings.model import Settings
from portico.settings.problems import Problem, SettingsRefused
from portico.settings.verify import verify
from portico.windows import exported, gpo, texts
from portico.windows.policy import Texts, client_policy
from portico.windows.registry_pol import RegistryValue
from portico.windows.takeover import Entry, Takeover, missing, take_over

_OUTCOMES = {"carried over": "green", "changed": "yellow", "left": "red", "missing": "red"}


class Format(StrEnum):
    """Forms of the client's policy."""

    GPO = "gpo"
    POWERSHELL = "powershell"
    REG = "reg"


_DEFAULT_FILES = {Format.GPO: "gpo-backup", Format.POWERSHELL: "client-settings.ps1", Format.REG: "client-settings.reg"}


def export(
    form: Annotated[Format, typer.Option("--format", "-f", help="gpo: a backup folder for Import-GPO.")] = Format.GPO,
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or, for gpo, folder. Default: a name for the format.")
    ] = None,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", help="Take this settings document, not the running server's.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the Group Policy object.")] = gpo.DEFAULT_NAME,
    friendly_name: Annotated[str, typer.Option(help="What users see the connection called.")] = Texts.friendly_name,
    support_email: Annotated[str | None, typer.Option(help="Where users send their logs.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Write the settings of Windows clients: for Group Policy, as a script, or for one computer.

    Run it on a server, or name a settings document. docs/windows-clients.md says what a Windows client can do with it.

    Example: `portico client export --format gpo --output /tmp/gpo`

    Example: `portico client export --format reg --settings settings.yaml --dry-run`
    """
    try:
        words = Texts(friendly_name, support_email)
    except ValueError as error:
        raise InvalidInput("The texts cannot be used", why=str(error), resolution="Give a shorter one") from None
    settings = _settings(settings_file)
    settings = localise(settings, settings.server.name)
    values = client_policy(settings, effective(settings), words)
    domain = settings.deployment.domain
    target = target if target is not None else Path(_DEFAULT_FILES[form])
    files = _files(form, values, domain, name)
    places = [str(target / path) for path in files]
    if not dry_run:
        _write(target, files, force=force)
    found: dict[str, Any] = {
        "format": form.value,
        "target": str(target),
        "dry_run": dry_run,
        "files": places,
        "values": [
            {"key": value.key, "name": value.name, "type": value.kind.name, "data": value.data} for value in values
        ],
    }

    def people(out: Console) -> None:
        rows = [(value.key, value.name, value.kind.name, output.words(value.data)) for value in values]
        if dry_run:
            out.print(output.table(["Key", "Name", "Type", "Data"], rows))
            out.print(f"Would write {escape(', '.join(places))}.")
            return
        out.print(f"Wrote {len(values)} values to {escape(str(target))}.")
        out.print(escape(_next(form, target, domain, name)))

    output.show(found, people)


def _settings(path: Path | None) -> Settings:
    if path is not None:
        return load_file(path)
    with server() as api:
        return load(api.get("/v1/settings")["yaml"], source="the server's settings")


def _files(form: Format, values: Sequence[RegistryValue], domain: str, name: str) -> dict[str, bytes]:
    """Paths below the target, or one that is the target itself."""
    if form is Format.GPO:
        return gpo.backup_files(values, domain=domain, name=name, now=datetime.now(UTC))
    if form is Format.REG:
        return {"": texts.reg_bytes(values)}
    # Windows PowerShell 5.1 reads a script without a byte order mark in the ANSI code page.
    return {"": b"\xef\xbb\xbf" + texts.powershell(values, name=name, domain=domain).encode()}


def _write(target: Path, files: dict[str, bytes], *, force: bool) -> None:
    if target.exists() and not force and not (target.is_dir() and not any(target.iterdir())):
        raise Conflict(
            f"{target} is there already",
            why="it would be replaced",
            resolution="Name another --output, or give --force",
        )
    try:
        for path, content in files.items():
            place = target / path if path else target
            if path.endswith("/"):
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            write_file(place, content, mode=0o644)
    except OSError as error:
        raise not_written(target, error) from None


def _next(form: Format, target: Path, domain: str, name: str) -> str:
    if form is Format.GPO:
        identifier = gpo.backup_id(domain, name)
        return (
            f"Next, on a domain controller: Import-GPO -BackupId '{identifier}' -Path '{target.name}' "
            f"-TargetName '{name}' -CreateIfNeeded"
        )
    if form is Format.REG:
        return f"Next, on the client as administrator: reg import {target.name}, then restart it"
    return f"Next, on a domain controller: .\\{target.name} -WhatIf, or with -Local on one client"


def take(
    files: Annotated[list[Path], typer.Argument(help="CLIXML or JSON of cmdlets, or a client's registry.pol.")],
    target: Annotated[Path, typer.Option("--output", "-o", help="The settings document to write.")] = Path(
        "settings.yaml"
    ),
    server_name: Annotated[str | None, typer.Option(help="Name of the server.")] = None,
    internet_interface: Annotated[str | None, typer.Option(help="Its interface to the Internet.")] = None,
    internal_interface: Annotated[str | None, typer.Option(help="Its interface to the intranet.")] = None,
    dns_servers: Annotated[
        list[str] | None, typer.Option("--dns-server", help="A DNS server of the intranet; more than once for more.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Decide a setting, as 'settings set' does.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the document.")] = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Make a settings document of a DirectAccess deployment's exported settings, with a report of each.

    On the Windows server: `Get-RemoteAccess | Export-Clixml remoteaccess.xml`, and the same with Get-DAServer,
    Get-DAClient, Get-DAClientDnsConfiguration and Get-RemoteAccessLoadBalancer; or take registry.pol of the client GPO.

    Example: `portico import remoteaccess.xml dns.xml --dns-server 10.0.0.53 --server-name edge1
    --internet-interface eth0 --internal-interface eth1`
    """
    given: dict[str, Any] = {
        "dns64.upstream_servers": dns_servers,
        "server.name": server_name,
        "server.internet_interface": internet_interface,
        "server.internal_interface": internal_interface,
    }
    exports = [exported.read(read_file(path, limit=exported.MAXIMUM_SIZE), source=path.name) for path in files]
    result = take_over(exports, {path: value for path, value in given.items() if value is not None})
    result.data = assign({"deployment": {}, "server": {}, **result.data}, assignments or ())
    lacking = missing(result)
    settings, problems = (None, ()) if lacking else _judged(result)
    if target.exists() and not force and not dry_run and settings is not None:
        raise Conflict(f"{target} is there already", resolution="Name another --output, or give --force")
    if settings is not None and not dry_run:
        write_file(target, dump(settings).encode(), mode=0o600)
    _report(result, lacking, settings, problems, target, dry_run=dry_run)
    if settings is None:
        raise typer.Exit(3)


def _judged(result: Takeover) -> tuple[Settings | None, tuple[Problem, ...]]:
    """The document, and what verification says; None when it is no document at all."""
    try:
        settings = load_data(result.data, source="the imported settings")
    except SettingsRefused as error:
        return None, error.problems
    return settings, tuple(verify(settings))


def _report(
    result: Takeover,
    lacking: Sequence[Entry],
    settings: Settings | None,
    problems: Sequence[Problem],
    target: Path,
    *,
    dry_run: bool,
) -> None:
    entries = [*result.entries, *lacking]
    found: dict[str, Any] = {
        "target": str(target) if settings is not None and not dry_run else None,
        "settings": settings.as_data() if settings is not None else result.data,
        "report": [entry.as_dict() for entry in entries],
        "problems": [problem.as_dict() for problem in problems],
    }

    def people(out: Console) -> None:
        for outcome, colour in _OUTCOMES.items():
            rows = [(e.origin, e.value, e.setting, e.text) for e in entries if e.outcome == outcome]
            if rows:
                out.print(f"[{colour}]{outcome.capitalize()}[/] ({len(rows)})")
                out.print(output.table(["From", "Value", "Setting", "Note"], rows))
        for problem in problems:
            output.print_problem(out, problem.as_dict())
        if settings is None:
            out.print(
                "No document was written: it lacks what is named above." if lacking else "No document was written."
            )
        elif dry_run:
            out.print(escape(dump(settings)), end="")
        else:
            out.print(f"Wrote {escape(str(target))}. Next: portico settings plan {escape(os.fspath(target))}")

    output.show(found, people)
