"""Since when things are as they are, also across restarts, and what changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from portico.health.components import Component
from portico.health.evaluate import ComponentHealth
from portico.health.observations import Distribution
from portico.health.report import (
    ComponentReport,
    DistributionReport,
    FindingReport,
    ServerReport,
    rolled_up,
)
from portico.health.states import HealthState

NOT_RETRIEVED, NOT_APPLIED, DISTRIBUTED = (
    "the newest settings have not been retrieved yet",
    "the settings were retrieved but are not applied yet",
    "the settings were distributed successfully",
)


class HealthEvent(BaseModel):
    """A change of one component of one server. `codes` are those of its findings now; the texts those of the worst."""

    model_config = ConfigDict(frozen=True)
    at: float
    server: str
    component: Component
    former: HealthState | None = Field(description="null: nothing was known")
    state: HealthState
    codes: tuple[str, ...] = ()
    what: str = ""
    cause: str = ""
    resolution: str = ""


class Memory:
    """What each server's components were when they were last looked at.

    Args:
        kept: what `as_data` returned before the restart; anything else is an empty memory.
    """

    def __init__(self, kept: object = None) -> None:
        self._last: dict[str, dict[Component, ComponentReport]] = {}
        self._since: dict[str, tuple[HealthState, float]] = {}
        if isinstance(kept, dict):
            self._restore(kept)

    def _restore(self, kept: Mapping[str, Any]) -> None:
        for server, data in kept.items():
            try:
                rows = [ComponentReport.model_validate(row) for row in data["components"]]
                state, since = HealthState(data["state"]), float(data["since"])
            except (ValidationError, LookupError, TypeError, ValueError):
                continue  # what another version wrote: it begins anew
            self._last[str(server)] = {row.component: row for row in rows}
            self._since[str(server)] = (state, since)

    def as_data(self) -> dict[str, Any]:
        """JSON data for `kept`."""
        return {
            server: {
                "state": self._since[server][0].value,
                "since": self._since[server][1],
                "components": [row.model_dump(mode="json") for row in rows.values()],
            }
            for server, rows in self._last.items()
        }

    def look(
        self,
        server: str,
        health: Mapping[Component, ComponentHealth],
        now: float,
        *,
        version: str = "",
        distribution: Distribution | None = None,
    ) -> tuple[ServerReport, list[HealthEvent]]:
        """This server's report, with times, and what changed since the last look."""
        former = self._last.get(server, {})
        rows = tuple(_timed(item, former.get(item.component), now) for item in health.values())
        state = rolled_up(rows)
        report = ServerReport(
            server=server,
            answers=True,
            version=version,
            at=now,
            state=state,
            since=self._state_since(server, state, now),
            components=rows,
            distribution=described(distribution) if distribution is not None else None,
        )
        return report, self.note(report, now)

    def note(self, report: ServerReport, now: float) -> list[HealthEvent]:
        """Remembers a report (also another server's) and returns what changed.

        Of a server that does not answer only its row Server is compared: the rest is not known.
        """
        former = self._last.setdefault(report.server, {})
        events = []
        for row in report.components:
            if not report.answers and row.component is not Component.SERVER:
                continue
            before = former.get(row.component)
            if before is None:
                changed = row.state not in (HealthState.OK, HealthState.DISABLED)
            else:
                changed = before.state is not row.state or before.keys != row.keys
            if changed:
                events.append(_event(report.server, row, before, now))
            former[row.component] = row
        self._since[report.server] = (report.state, report.since)
        return events

    def forget(self, servers: frozenset[str]) -> None:
        """Keeps only these servers."""
        for name in [name for name in self._last if name not in servers]:
            del self._last[name], self._since[name]

    def _state_since(self, server: str, state: HealthState, now: float) -> float:
        known = self._since.get(server)
        return min(known[1], now) if known is not None and known[0] is state else now


def described(state: Distribution) -> DistributionReport:
    """The distribution with a message, as Windows' console words it."""
    if state.stored < state.newest:
        message = NOT_RETRIEVED
    elif state.applied < state.stored:
        message = f"the settings cannot be applied: {state.error}" if state.error else NOT_APPLIED
    else:
        message = DISTRIBUTED
    return DistributionReport(
        newest=state.newest,
        stored=state.stored,
        applied=state.applied,
        stage=state.stage,
        times=dict(state.times),
        message=message[:600],
        error=state.error[:600],
    )


def _timed(item: ComponentHealth, former: ComponentReport | None, now: float) -> ComponentReport:
    # A clock that went back must not make times lie in the future.
    known = {finding.key: min(finding.since, now) for finding in former.findings} if former is not None else {}
    since = min(former.since, now) if former is not None and former.state is item.state else now
    findings = tuple(
        FindingReport(**finding.as_dict() | {"since": known.get((finding.code, finding.about), now)})
        for finding in item.findings
    )
    return ComponentReport(
        component=item.component,
        title=item.component.label,
        state=item.state,
        since=since,
        why=item.why,
        findings=findings,
    )


def _event(server: str, row: ComponentReport, before: ComponentReport | None, now: float) -> HealthEvent:
    worst = row.findings[0] if row.findings else None
    return HealthEvent(
        at=now,
        server=server,
        component=row.component,
        former=before.state if before is not None else None,
        state=row.state,
        codes=tuple(finding.code for finding in row.findings),
        what=worst.what if worst is not None else "",
        cause=worst.cause if worst is not None else row.why,
        resolution=worst.resolution if worst is not None else "",
    )
