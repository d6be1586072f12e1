"""`portico backup create|verify|show` and `portico restore`."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from rich.console import Console

from portico.errors import InvalidInput, NotFound
from portico.files import exclusive, not_written, read_file
from portico.management.api.serve import LOCK_NAME
from portico.management.cli import output
from portico.paths import server_state
from portico.server.backup.archive import Manifest, read, snapshot, written
from portico.server.backup.container import Passphrase, seal, unseal
from portico.server.backup.restoring import restore as put_back
from portico.server.backup.restoring import settle
from portico.server.machine import read_own_name

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
    to = _public(recipient) if recipient is not None else _passphrase(passphrase_file, twice=True)
    state = server_state()
    temporary: str | None = None
    with snapshot(state, server=read_own_name(state), now=datetime.now(UTC), accounting=accounting) as (manifest, copy):
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # always 0600
            with os.fdopen(descriptor, "wb") as target:
                for piece in seal(written(manifest, copy, _progress(manifest)), to):
                    target.write(piece)
                target.flush()
                os.fsync(target.fileno())
            Path(temporary).replace(file)
            temporary = None
        except OSError as error:
            raise not_written(file, error) from None
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
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


def restore(
    file: File,
    passphrase_file: PassphraseFile = None,
    key: KeyFile = None,
    force: Annotated[bool, typer.Option("--force", help="Over existing settings, which are put aside.")] = False,
    dry_run: output.DryRun = False,
    json: output.Json = False,
) -> None:
    """Put a backup in the place of this server's state, as a whole or not at all. The server must be stopped.

    In a cluster this is the first server; the others join it with a token.

    Example: `portico restore portico.backup --dry-run`
    """
    output.require_root("restore a backup")
    state = server_state()
    with contextlib.ExitStack() as stack:
        if state.exists():
            resolution = "Stop it first: portico server stop"
            stack.enter_context(exclusive(state / LOCK_NAME, what="The server runs", resolution=resolution))
        before = settle(state)
        if before is not None:
            output.note(f"An earlier restore was interrupted: the {before} state is in force")
        pieces = stack.enter_context(_opened(file, passphrase_file, key))
        done = put_back(pieces, state, now=datetime.now(UTC), force=force, dry_run=dry_run)
    text = "Would restore" if dry_run else "Restored; start it with: portico server start"
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
        by = _private(key) if key is not None else _passphrase(passphrase_file, twice=False)
        yield unseal(source, by)


def _passphrase(path: Path | None, *, twice: bool) -> Passphrase:
    if path is not None:
        return Passphrase(read_file(path, limit=4096).split(b"\n")[0])
    if not sys.stdin.isatty():
        raise InvalidInput(
            "The backup needs a passphrase", why="there is no terminal to ask on", resolution="Give --passphrase-file"
        )
    text = getpass.getpass("Passphrase: ")
    if twice and getpass.getpass("Again: ") != text:
        raise InvalidInput("The passphrases differ", resolution="Type the same one twice")
    return Passphrase(text.encode())


def _public(path: Path) -> X25519PublicKey:
    with contextlib.suppress(ValueError, TypeError):
        key = load_pem_public_key(read_file(path))
        if isinstance(key, X25519PublicKey):
            return key
    raise _no_key(path, "public")


def _private(path: Path) -> X25519PrivateKey:
    with contextlib.suppress(ValueError, TypeError):
        key = load_pem_private_key(read_file(path), password=None)
        if isinstance(key, X25519PrivateKey):
            return key
    raise _no_key(path, "private")


def _no_key(path: Path, kind: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is no X25519 {kind} key",
        resolution="Make one: openssl genpkey -algorithm x25519 -out backup.key; "
        "openssl pkey -in backup.key -pubout -out backup.pub",
    )
