"""The section `backup`: backups that every server makes by itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from portico.settings.kinds import FilePath, Section, State

TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class Backup(Section):
    """Each server writes its own, of everything that it needs to be put up again."""

    state: State = Field(default="disabled", description="whether backups are made by schedule")
    directory: FilePath | None = Field(
        default=None, description="where they are written, on every server; a mounted file system elsewhere is better"
    )
    interval_hours: int = Field(default=24, ge=1, le=744, description="between two backups")
    at: TimeOfDay | None = Field(
        default=None, description="time of day (UTC) of the first one that is due, `02:30`; null: as soon as it is due"
    )
    keep: int = Field(default=7, ge=1, le=1000, description="backups of a server that stay; older ones are deleted")
    recipient_file: FilePath | None = Field(
        default=None, description="X25519 public key, PEM: only who has the private key can read a backup"
    )
    passphrase_file: FilePath | None = Field(
        default=None, description="instead: file that root alone may read, its first line is the passphrase"
    )
    accounting: bool = Field(default=False, description="whether the sessions of inbox accounting are in it")
