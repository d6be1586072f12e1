"""Routes about health: components and their states, the log of changes, what became of alerts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import PlainTextResponse
from pydantic import Field

from portico.errors import NotFound
from portico.health.components import Component
from portico.health.memory import HealthEvent
from portico.health.metrics import exposition
from portico.health.report import ClusterReport
from portico.health.states import worst
from portico.management.api.models import Model
from portico.server.agent import Agent


class NumberedEvent(HealthEvent):
    """A change; numbers grow and are never used again."""

    number: int


class EventsAnswer(Model):
    """`oldest` is the number of the oldest event that is kept; `more`: there are others on the side paged to."""

    events: list[NumberedEvent]
    oldest: int | None
    more: bool


class ChangesModel(Model):
    """What became of changes on this server. `short`: over before the hold-down ended, and never told."""

    told: int
    short: int
    flapping: int
    withheld: int
    left_to_leader: int
    subjects_refused: int
    waiting: int
    flapping_now: list[str]
    withheld_now: int


class ReceiverModel(Model):
    name: str
    waiting: int
    sent: int
    failures: int
    dropped: int
    error: str
    failing_since: float | None


class AlertsAnswer(Model):
    """`sends_for_all`: this server tells what all servers share."""

    sends_for_all: bool
    changes: ChangesModel
    receivers: list[ReceiverModel]
    events_lost: int = Field(description="changes that could not be written to the log since the start")


Server = Annotated[str | None, Query(max_length=63, description="only this server")]
Refresh = Annotated[bool, Query(description="look now, instead of giving what was seen some seconds ago")]


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/health, /v1/events and /v1/alerts."""
    routes = APIRouter(prefix="/v1", responses=faults)
    the_agent = Depends(agent_of)

    async def asked(agent: Agent, server: str | None, refresh: bool) -> ClusterReport:
        if server is not None:
            return await agent.health.server(server, refresh=refresh)
        return await agent.health.report(refresh=refresh)

    @routes.get("/health")
    async def health(server: Server = None, refresh: Refresh = False, agent: Agent = the_agent) -> ClusterReport:
        """Every server of the cluster with its twenty components, as the server that answers knows them."""
        return await asked(agent, server, refresh)

    @routes.get("/health/{component}")
    async def component(
        component: str, server: Server = None, refresh: Refresh = False, agent: Agent = the_agent
    ) -> ClusterReport:
        """The same with one component. `state` of the whole is then that of the component on all servers."""
        wanted = component_named(component)
        whole = await asked(agent, server, refresh)
        servers = tuple(report.only(wanted) for report in whole.servers)
        state = worst(row.state for report in servers for row in report.components)
        return whole.model_copy(update={"servers": servers, "state": state})

    @routes.get("/events")
    async def events(
        after: Annotated[int | None, Query(ge=0, description="the first events after this number")] = None,
        before: Annotated[int | None, Query(ge=1, description="the last events before this number")] = None,
        since: Annotated[float | None, Query(ge=0, description="seconds since the epoch")] = None,
        server: Server = None,
        component: Annotated[str | None, Query(max_length=80)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        agent: Agent = the_agent,
    ) -> EventsAnswer:
        """Changes of health of all servers, as the server that answers saw them, oldest first; without `after` the
        last ones."""
        wanted = component_named(component) if component is not None else None
        found = await asyncio.to_thread(
            lambda: agent.health.events.page(
                after=after, before=before, since=since, server=server, component=wanted, limit=limit
            )
        )
        return EventsAnswer.model_validate(found)

    @routes.get("/alerts")
    async def alerts(agent: Agent = the_agent) -> AlertsAnswer:
        """What was told to whom, and what was not."""
        return AlertsAnswer.model_validate(agent.health.alerts())

    @routes.get("/metrics/health", response_class=PlainTextResponse)
    async def metrics(agent: Agent = the_agent) -> PlainTextResponse:
        """States of all components of this server for Prometheus."""
        report = await agent.health.report()
        own = next(item for item in report.servers if item.server == report.answered_by)
        text = exposition(own, agent.health.alerts())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def component_named(name: str) -> Component:
    """A component by its name, or by the title that Windows gives it. Raises NotFound."""
    wanted = name.strip().lower()
    for component in Component:
        if wanted in (component.value, component.label.lower()):
            return component
    raise NotFound(
        f"There is no component {name[:80]}",
        why=f"there are {', '.join(component.value for component in Component)}",
        resolution="List them with: portico health",
        code="NO_SUCH_COMPONENT",
    )
