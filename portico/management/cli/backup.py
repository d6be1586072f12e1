"""`portico backup create|verify|show` and `portico restore`."""

from __future__ import annotations

import contextlib
import getpass
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console

from portico.errors import InvalidInput, NotFound
from portico.files import exclusive
from portico.management.api.serve import LOCK_NAME
from portico.management.cli import output
from portico.management.cli.connection import server
from portico.paths import server_state
from portico.server.backup.archive import Manifest, read
from portico.server.backup.container import Passphrase, unseal
from portico.server.backup.keys import passphrase, private_key, public_key
from portico.server.backup.moving import parse_moves
from portico.server.backup.prepared import how_to_start, unprepared
from portico.server.backup.restoring import restore as put_back
from portico.server.backup.restoring import settle
from portico.server.backup.writing import write_backup

app = typer.Typer()

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", metavar="FILE", help="First line: the passphrase. Else it is asked.")
]
KeyFile = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="The recipient's X25519 private key, PEM.")]


@app.command()
def create(
    file: File,
    passphrase_file: PassphraseFile = None,
    recipient: Annotated[
        Path | None, typer.Option("--recipient", metavar="FILE", help="An X25519 public key, PEM, instead.")
    ] = None,
    accounting: Annotated[bool, typer.Option("--accounting", help="With the sessions of inbox accounting.")] = False,
    json: output.Json = False,
) -> None:
    """Write everything of this server that is not on the disk of an installation into one encrypted file.

    Example: `portico backup create /mnt/safe/portico.backup --recipient backup.pub`
    """
    output.require_root("make a backup")
    to = public_key(recipient) if recipient is not None else _passphrase(passphrase_file, twice=True)
    manifest = write_backup(server_state(), file, to, now=datetime.now(UTC), accounting=accounting, progress=_progress)
    _show(manifest, f"Wrote {file}")


@app.command()
def verify(file: File, passphrase_file: PassphraseFile = None, key: KeyFile = None, json: output.Json = False) -> None:
    """Decrypt a whole backup and check every digest in it. Needs no server.

    Example: `portico backup verify portico.backup --key backup.key`
    """
    with _opened(file, passphrase_file, key) as pieces:
        _show(read(pieces, None), "The backup is whole")


@app.command("show")
def contents(
    file: File, passphrase_file: PassphraseFile = None, key: KeyFile = None, json: output.Json = False
) -> None:
    """List what is in a backup, without any of its secrets; it is verified as a whole.

    Example: `portico backup show portico.backup`
    """
    with _opened(file, passphrase_file, key) as pieces:
        manifest = read(pieces, None)
    rows = [(entry.path, output.bytes_text(entry.size)) for entry in manifest.files]
    output.show(manifest.as_dict(), lambda out: out.print(output.table(["File", "Size"], rows)))


@app.command("status")
def status(json: output.Json = False) -> None:
    """Show the schedule of a server, and what became of its last backup.

    Example: `portico backup status`
    """
    with server() as api:
        found = api.get("/v1/backup")
    last = found["last"]
    fault = last["error"]["what"] if last is not None and last["error"] else None
    rows = {
        "Schedule": "enabled" if found["enabled"] else "disabled",
        "Directory": found["directory"],
        "Next": found["next"][:16].replace("T", " ") + " UTC" if found["next"] else None,
        "Last": f"{last['at'][:16].replace('T', ' ')} UTC: {fault or last['file']}" if last is not None else "never",
    }
    output.show(found, lambda out: out.print(output.fields(rows)))


@app.command("list")
def list_command(json: output.Json = False) -> None:
    """List the backups that a server has made by schedule, newest first.

    Example: `portico backup list`
    """
    with server() as api:
        found = api.get("/v1/backup/files")
    rows = [(f["name"], output.bytes_text(f["size"]), output.time_text(f["modified"])) for f in found["files"]]
    output.show(found, lambda out: out.print(output.table(["Name", "Size", "Made"], rows, empty="No backups.")))


@app.command("make")
def make(json: output.Json = False) -> None:
    """Let a server make a backup now, where its settings say; from another machine with --server.

    Example: `portico backup make`
    """
    with server() as api:
        made = api.post("/v1/backup/make")
    output.show(made, lambda out: out.print(f"Made {made['file']}: revision {made['revision']}", markup=False))


@app.command("plan")
def plan(name: Annotated[str, typer.Argument(help="As the list has it.")], json: output.Json = False) -> None:
    """Let a server read one of its backups whole, and show what a restore would change in the settings.

    Example: `portico backup plan portico-da1-20270101T023000Z.backup`
    """
    with server() as api:
        found = api.post(f"/v1/backup/files/{quote(name, safe='')}/plan")
    text = "\n".join(found["lines"] or ["No difference."])
    output.show(found, lambda out: out.print(text, markup=False))


@app.command("download")
def download(
    name: Annotated[str, typer.Argument(help="As the list has it.")],
    into: Annotated[Path, typer.Argument(metavar="FILE", help="Where it is written, with mode 0600.")],
    json: output.Json = False,
) -> None:
    """Fetch a backup of a server, encrypted as it is.

    Example: `portico backup download portico-da1-20270101T023000Z.backup ./da1.backup`
    """
    with server() as api:
        size = api.save(f"/v1/backup/files/{quote(name, safe='')}", into)
    output.show({"file": str(into), "size": size}, lambda out: out.print(f"Wrote {into}", markup=False))


def restore(
    file: File,
    passphrase_file: PassphraseFile = None,
    key: KeyFile = None,
    force: Annotated[bool, typer.Option("--force", help="Over existing settings, which are put aside.")] = False,
    interfaces: Annotated[
        list[str] | None, typer.Option("--map", metavar="OLD=NEW", help="An interface of another name on this machine.")
    ] = None,
    addresses: Annotated[
        list[str] | None, typer.Option("--address", metavar="OLD=NEW", help="An address that is another one here.")
    ] = None,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Put a backup in the place of this server's state, as a whole or not at all. The server must be stopped.

    In a cluster this is the first server; the others join it with a token.

    Example: `portico restore portico.backup --dry-run`
    """
    output.require_root("restore a backup")
    moves = parse_moves(interfaces or [], addresses or [])
    state = server_state()
    if (lacking := unprepared()) is not None:
        if not dry_run:
            raise lacking
        output.warn(f"{lacking.what}: {lacking.why}. {lacking.resolution}")
    with contextlib.ExitStack() as stack:
        if state.exists():
            resolution = "Stop it first: portico server stop"
            stack.enter_context(exclusive(state / LOCK_NAME, what="The server runs", resolution=resolution))
        before = settle(state)
        if before is not None:
            output.note(f"An earlier restore was interrupted: the {before} state is in force")
        pieces = stack.enter_context(_opened(file, passphrase_file, key))
        done = put_back(pieces, state, now=datetime.now(UTC), force=force, dry_run=dry_run, moves=moves)
    text = "Would restore" if dry_run else f"Restored; start it with: {how_to_start()}"
    _show(done.manifest, f"{text} (the former state is {done.aside})" if done.aside else text)


def _show(manifest: Manifest, text: str) -> None:
    size = output.bytes_text(sum(entry.size for entry in manifest.files))
    where = f" of {manifest.server}" if manifest.server else ""
    line = f"{text}: revision {manifest.revision}{where}, {len(manifest.files)} files, {size}, {manifest.created}"

    def people(out: Console) -> None:
        out.print(line, markup=False)

    output.show(manifest.as_dict(), people)


def _progress(manifest: Manifest) -> Callable[[int], None]:
    whole, shown = sum(entry.size for entry in manifest.files), -1

    def tell(done: int) -> None:
        nonlocal shown
        tenth = done * 10 // max(1, whole)
        if tenth != shown and whole > 64 << 20:
            shown = tenth
            output.note(f"{tenth * 10} %")

    return tell


@contextlib.contextmanager
def _opened(file: Path, passphrase_file: Path | None, key: Path | None) -> Iterator[Iterator[bytes]]:
    try:
        source = file.open("rb")
    except OSError as error:
        raise NotFound(f"cannot read {file}", why=str(error), resolution="Correct the path") from None
    with source:
        by = private_key(key) if key is not None else _passphrase(passphrase_file, twice=False)
        yield unseal(source, by)


def _passphrase(path: Path | None, *, twice: bool) -> Passphrase:
    if path is not None:
        return passphrase(path)
    if not sys.stdin.isatty():
        raise InvalidInput(
            "The backup needs a passphrase", why="there is no terminal to ask on", resolution="Give --passphrase-file"
        )
    text = getpass.getpass("Passphrase: ")
    if twice and getpass.getpass("Again: ") != text:
        raise InvalidInput("The passphrases differ", resolution="Type the same one twice")
    return Passphrase(text.encode())
