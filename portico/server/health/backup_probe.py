"""How backups by schedule do, for health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from portico.health.heuristics.backup import BackupSeen

if TYPE_CHECKING:
    from portico.server.agent import Agent


async def look_at_backups(agent: Agent) -> BackupSeen | None:
    """None while none are made by schedule."""
    settings = agent.platform.settings
    if settings is None or settings.backup.state == "disabled":
        return None
    return BackupSeen(*(agent.backups.problem() or ()))
