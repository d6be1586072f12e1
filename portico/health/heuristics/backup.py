"""Backups by schedule."""

from __future__ import annotations

from dataclasses import dataclass

from portico.health.components import Component
from portico.health.findings import CATALOGUE
from portico.health.observations import Observations
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

FAILED = CATALOGUE.add(
    "BACKUP_FAILED",
    Component.SERVER,
    HealthState.WARNING,
    what="There is no backup of this server as new as there should be",
    cause="{why}",
    resolution="{resolution}",
)


@dataclass(frozen=True)
class BackupSeen:
    """What is wrong with the schedule and what to do about it, both empty when all is well."""

    why: str = ""
    resolution: str = ""


@heuristic(Component.SERVER)
def made(seen: Observations) -> Findings:
    """The last backup succeeded, and is not too old."""
    found = seen.extra(BackupSeen)  # noqa: S610  # no Django
    if found is None:
        return None
    return [FAILED.finding(why=found.why, resolution=found.resolution)] if found.why else []
