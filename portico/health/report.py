"""What one server, and a cluster, say about their health; the same between servers and at the API. Pure.

Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from portico.errors import InvalidInput
from portico.health.components import Component
from portico.health.findings import CATALOGUE, MAXIMUM_TEXT
from portico.health.states import HealthState, worst

SILENT = CATALOGUE.add(
    "SERVER_SILENT",
    Component.SERVER,
    HealthState.ERROR,
    what="The server {about} does not answer",
    cause="{why}",
    resolution="Look at the machine; on it: portico server status",
    shared=True,
)

MAXIMUM_SERVERS: Final = 32


class _Data(BaseModel):
    """A newer server may say more than this one knows: that is left out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class FindingReport(_Data):
    """One thing that is not as it should be, and since when."""

    code: str = Field(max_length=80)
    state: HealthState
    about: str = Field(max_length=100)
    what: str = Field(max_length=MAXIMUM_TEXT)
    cause: str = Field(max_length=MAXIMUM_TEXT)
    resolution: str = Field(max_length=MAXIMUM_TEXT)
    shared: bool = Field(description="every server finds the same")
    since: float

    @property
    def key(self) -> tuple[str, str]:
        return self.code, self.about


class ComponentReport(_Data):
    """One component of one server. `why` says why it is Disabled, or Unknown."""

    component: Component
    title: str = Field(max_length=80)
    state: HealthState
    since: float
    why: str = Field(default="", max_length=MAXIMUM_TEXT)
    findings: tuple[FindingReport, ...] = Field(default=(), max_length=50)

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        return frozenset(finding.key for finding in self.findings)


class DistributionReport(_Data):
    """How far the newest settings got on this server, in the words of Windows' configuration status."""

    newest: int = Field(description="the largest revision that is known of")
    stored: int
    applied: int
    stage: str = Field(max_length=40)
    times: dict[str, float] = Field(default_factory=dict, max_length=10)
    message: str = Field(max_length=MAXIMUM_TEXT)
    error: str = Field(default="", max_length=MAXIMUM_TEXT)


class ServerReport(_Data):
    """One server. `state` is the roll-up: the worst of its components; `since` is when it became so."""

    server: str = Field(max_length=63)
    answers: bool = Field(description="false: another server tells what it knew last")
    version: str = Field(default="", max_length=80)
    at: float = Field(description="when it looked")
    state: HealthState
    since: float
    components: tuple[ComponentReport, ...] = Field(max_length=40)
    distribution: DistributionReport | None = None

    def component(self, component: Component) -> ComponentReport | None:
        return next((row for row in self.components if row.component is component), None)

    def only(self, component: Component) -> ServerReport:
        """The same with one row."""
        return self.model_copy(update={"components": tuple(r for r in self.components if r.component is component)})


class ClusterReport(_Data):
    """All servers, as the one that answers knows them. Without load balancing it is the only one."""

    cluster: bool
    answered_by: str
    at: float
    state: HealthState
    servers: tuple[ServerReport, ...]


def read(data: Any) -> ServerReport:
    """A report that came from another server.

    Components that this version does not know are left out. Raises InvalidInput (MESSAGE_MALFORMED).
    """
    try:
        known = {component.value for component in Component}
        rows = [row for row in data["components"] if row["component"] in known]
        return ServerReport.model_validate({**data, "components": rows})
    except (ValidationError, LookupError, TypeError) as error:
        why = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else type(error).__name__
        raise InvalidInput(
            "A message of another server cannot be read",
            why=f"its report about health: {why}",
            resolution="Use the same version of Portico on all servers",
            code="MESSAGE_MALFORMED",
        ) from None


def silent(name: str, last: ServerReport | None, since: float, why: str, now: float) -> ServerReport:
    """The report about a server that does not answer: it is in error, of the rest only the last state is known."""
    finding = SILENT.finding(name, why=why)
    row = FindingReport(**finding.as_dict() | {"since": since})
    rows = []
    for component in Component:
        former = last.component(component) if last is not None else None
        if component is Component.SERVER:
            rows.append(_row(component, HealthState.ERROR, since, findings=(row,)))
        elif former is not None and former.state is HealthState.DISABLED:
            rows.append(former)
        else:
            was = f"it was {former.state} when the server answered last" if former is not None else "it never answered"
            rows.append(_row(component, HealthState.UNKNOWN, since, why=was))
    return ServerReport(
        server=name,
        answers=False,
        version=last.version if last is not None else "",
        at=last.at if last is not None else now,
        state=HealthState.ERROR,
        since=since,
        components=tuple(rows),
        distribution=last.distribution if last is not None else None,
    )


def together(own: str, reports: Mapping[str, ServerReport], *, cluster: bool, now: float) -> ClusterReport:
    """The roll-up over all servers, by name."""
    servers = tuple(reports[name] for name in sorted(reports))
    return ClusterReport(
        cluster=cluster, answered_by=own, at=now, state=worst(r.state for r in servers), servers=servers
    )


def rolled_up(rows: Iterable[ComponentReport]) -> HealthState:
    return worst(row.state for row in rows)


def _row(component: Component, state: HealthState, since: float, **more: Any) -> ComponentReport:
    return ComponentReport(component=component, title=component.label, state=state, since=since, **more)
