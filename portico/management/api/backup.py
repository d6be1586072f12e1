"""Routes about backups: what became of the last, making one, fetching one, what a restore of one would change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from fastapi.responses import FileResponse

from portico.administration.roles import Role
from portico.management.api.models import Model
from portico.management.api.recording import note
from portico.management.api.roles import needs
from portico.server.agent import Agent

Name = Annotated[str, Path(min_length=1, max_length=160)]


class BackupAttempt(Model):
    """`at` is ISO 8601 in UTC; `error` is null for one that succeeded."""

    at: str
    file: str | None
    size: int | None
    revision: int | None
    error: dict[str, Any] | None


class BackupStatus(Model):
    enabled: bool
    directory: str | None
    next: str | None
    last: BackupAttempt | None
    last_good: BackupAttempt | None


class BackupFile(Model):
    name: str
    size: int
    modified: float


class BackupFiles(Model):
    files: list[BackupFile]


class BackupPlan(Model):
    """The contents of a backup, and what differs from the newest settings."""

    manifest: dict[str, Any]
    lines: list[str]


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/backup."""
    routes = APIRouter(prefix="/v1/backup", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def status(agent: Agent = the_agent) -> BackupStatus:
        """The schedule of this server, and what became of the last backup."""
        return BackupStatus.model_validate(agent.backups.status())

    @routes.get("/files")
    async def files(agent: Agent = the_agent) -> BackupFiles:
        """The backups in the directory of the settings, newest first."""
        return BackupFiles.model_validate({"files": await asyncio.to_thread(agent.backups.files)})

    @routes.post("/make")
    async def make(agent: Agent = the_agent) -> BackupAttempt:
        """Makes a backup of this server now, where the settings say and for whom they say."""
        made = await agent.backups.make()
        note(after={"file": made.file, "revision": made.revision})
        return BackupAttempt.model_validate(vars(made))

    @routes.get("/files/{name}", response_class=FileResponse)
    @needs(Role.ADMINISTRATOR)
    async def fetch(name: Name, agent: Agent = the_agent) -> FileResponse:
        """A backup, encrypted as it is."""
        path = await asyncio.to_thread(agent.backups.file, name)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @routes.post("/files/{name}/plan")
    async def plan(name: Name, agent: Agent = the_agent) -> BackupPlan:
        """Reads a backup whole, and says what a restore would change. Only where the server has the passphrase."""
        return BackupPlan.model_validate(await asyncio.to_thread(agent.backups.plan, name))

    return routes
