"""Putting a backup back: all of it beside the state first, verified, then in its place by one rename.

A kill at any moment leaves the old state or the new one: renameat2(2) exchanges the two directories in one step. What
is left beside the state says by its name and by `restored.json` which of the two is in force (`settle`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from portico.certificates.store import DATABASE_NAME as CERTIFICATES_NAME
from portico.certificates.store import CertificateStore
from portico.errors import Conflict, InvalidInput, PorticoError
from portico.files import not_written, private_directory, read_file, write_file
from portico.server.backup.archive import Manifest, read
from portico.server.backup.moving import Moves, move
from portico.server.balancer.boots import BOOT_NAME
from portico.server.credentials import DIRECTORY as CERTIFICATES
from portico.server.kept_files import MADE_NAME
from portico.server.platform import LEDGER_NAME
from portico.server.returned import FILE_NAME as RETURNED_NAME
from portico.settings.document import load_data
from portico.settings.problems import SettingsRefused, errors
from portico.settings.store import DATABASE_NAME, SettingsStore
from portico.settings.verify import verify

RESTORED_NAME = "restored.json"
_OF_THE_MACHINE = (MADE_NAME, LEDGER_NAME, BOOT_NAME, RETURNED_NAME)
"""Files about this machine and not about the service: what was installed, what the kernel holds, how often it began."""
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True)
class Restored:
    """What is in force now. `aside` is where the former state is."""

    manifest: Manifest
    aside: Path | None


def settle(state: Path) -> Literal["old", "new"] | None:
    """Finishes a restore that was interrupted and says which state is in force; None: there was none.

    Raises:
        Unavailable: something beside the state cannot be renamed or deleted.
    """
    outcome: Literal["old", "new"] | None = None
    prefix = f"{state.name}.restoring-"
    try:
        for stage in sorted(state.parent.glob(f"{prefix}*")):
            if _mark(state) == stage.name.removeprefix(prefix):
                stage.rename(_aside(state, stage.name.removeprefix(prefix)))
                outcome = "new"
            else:
                shutil.rmtree(stage)
                outcome = outcome or "old"
    except OSError as error:
        raise not_written(state, error) from None
    return outcome


def restore(
    pieces: Iterable[bytes], state: Path, *, now: datetime, force: bool, dry_run: bool, moves: Moves | None = None
) -> Restored:
    """Puts a backup in the place of a server's state. The agent does not run.

    Args:
        pieces: the archive, decrypted.
        moves: what is called otherwise on this machine; the settings get one more revision then.

    Raises:
        Conflict: code INSTALLED_ALREADY; there are settings and `force` is not given.
        InvalidInput: the backup is damaged, or what is in it cannot be used; nothing was changed.
        Unavailable: something cannot be written; nothing was changed.
    """
    mark = now.strftime("%Y%m%dT%H%M%S%fZ")
    stage = state.with_name(f"{state.name}.restoring-{mark}")
    try:
        private_directory(stage)
        manifest = read(pieces, stage)
        _verify(stage, manifest)
        if moves:
            manifest = replace(manifest, revision=_move(stage, moves, now))
        if not dry_run and not force and (state / DATABASE_NAME).exists():
            raise Conflict(
                "This machine has settings already", why=f"they are in {state}", code="INSTALLED_ALREADY",
                resolution="Give --force; what is there is put aside, not deleted",
            )  # fmt: skip
        if dry_run:
            return Restored(manifest, None)
        for name in _OF_THE_MACHINE:
            if (state / name).is_file():
                shutil.copy2(state / name, stage / name)
        write_file(stage / RESTORED_NAME, json.dumps({"mark": mark, "created": manifest.created}).encode())
        _sync(stage)
        if not state.exists():
            stage.rename(state)
            _sync_directory(state.parent)
            return Restored(manifest, None)
        _exchange(stage, state)
        _sync_directory(state.parent)
        aside = _aside(state, mark)
        stage.rename(aside)
        return Restored(manifest, aside)
    except (OSError, sqlite3.Error) as error:
        raise not_written(state, error) from None
    finally:
        # After the exchange the name may still be that of the former state, which must stay.
        if stage.exists() and _mark(state) != mark:
            shutil.rmtree(stage, ignore_errors=True)


def _verify(stage: Path, manifest: Manifest) -> None:
    """Opens what was staged as the server will: schemas are migrated, the newest document is read."""
    store = SettingsStore.open(stage)
    try:
        newest = store.latest()
        if store.damage is not None:
            raise store.damage
        if newest is None or newest.number != manifest.revision:
            raise InvalidInput(
                "The backup cannot be used", why="it lacks the revision that its list of contents names",
                resolution="Use another copy of it; nothing was changed", code="BACKUP_DAMAGED",
            )  # fmt: skip
        _ = newest.settings
    finally:
        store.close()
    if (stage / CERTIFICATES / CERTIFICATES_NAME).exists():
        records = CertificateStore.open(stage / CERTIFICATES)
        try:
            with records.transaction() as connection:
                # Another log: the other servers must not take its next numbers for those they have read already.
                connection.execute("UPDATE log SET id = lower(hex(randomblob(16)))")
        finally:
            records.close()


def _move(stage: Path, moves: Moves, now: datetime) -> int:
    """Adds the revision for this machine, which it serves from; returns its number."""
    store = SettingsStore.open(stage)
    try:
        newest = store.latest()
        assert newest is not None
        document = load_data(move(newest.settings.as_data(), moves))
        refused = errors(verify(document))
        if refused:
            raise SettingsRefused("The settings of the backup cannot be used with these mappings", refused)
        made = store.commit(document, expected=newest.number, author="restore", comment="for another machine", now=now)
        store.mark_applied(made)
    finally:
        store.close()
    return made.number


def _mark(state: Path) -> str | None:
    with contextlib.suppress(PorticoError, ValueError, LookupError, TypeError):
        return str(json.loads(read_file(state / RESTORED_NAME))["mark"])
    return None


def _aside(state: Path, mark: str) -> Path:
    return state.with_name(f"{state.name}.before-{mark}")


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def _sync(directory: Path) -> None:
    """Everything below a directory; the databases were written after they were read from the archive."""
    for path in directory.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    _sync_directory(directory)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
