"""Backups by schedule, the document."""

from __future__ import annotations

from collections.abc import Iterator

from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

INCOMPLETE = CATALOGUE.add(
    "BACKUP_INCOMPLETE",
    what="Backups cannot be made by schedule",
    why="{why}",
    resolution="Set backup.directory, and either backup.recipient_file or backup.passphrase_file",
    example="backup: {state: enabled, directory: /mnt/safe}",
)


def complete(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """A place, and one way to encrypt."""
    backup = settings.backup
    if backup.state == "disabled":
        return
    if backup.directory is None:
        yield INCOMPLETE.problem("backup.directory", why="nobody says where they are written")
    if (backup.recipient_file is None) == (backup.passphrase_file is None):
        found = "none" if backup.recipient_file is None else "two"
        yield INCOMPLETE.problem("backup.recipient_file", why=f"there is {found} of the two ways to encrypt them")


RULES = (complete,)
