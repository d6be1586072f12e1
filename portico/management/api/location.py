"""Routes about the pages for clients, and about the deployment's records in the corporate DNS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from portico.management.api.models import Fault, Model
from portico.naming.records.render import Format
from portico.server.agent import Agent


class WantedNameModel(Model):
    """A name with all the addresses it must have."""

    name: str
    purpose: str
    addresses: list[str]


class DnsServerModel(Model):
    """A DNS server of the zone; `trouble` says why it gives no usable answer."""

    server: str
    serial: int | None
    trouble: str | None


class RecordFault(Fault):
    """A record that is not as it must be on one server, with what clients show then."""

    kind: str = Field(description="missing, wrong, stale (right where updates go) or unanswered")
    server: str
    name: str
    record: str
    found: list[str]
    wanted: list[str]
    symptom: str


class RecordsAnswer(Model):
    """One look at all DNS servers of the zone. `checked` in seconds since the epoch."""

    checked: float
    ok: bool
    zone: str
    wanted: list[WantedNameModel]
    servers: list[DnsServerModel]
    update_server: str | None
    faults: list[RecordFault]
    problem: Fault | None = Field(description="why the servers could not be asked at all")


class RecordChangeModel(Model):
    action: str
    name: str
    record: str
    value: str


class RecordsUpdate(Model):
    dry_run: bool = False


class UpdateAnswer(Model):
    """What was (or would be) changed, and how the records are now."""

    dry_run: bool
    changes: list[RecordChangeModel]
    records: RecordsAnswer


class RecordsText(Model):
    """The records for people who enter them by hand."""

    format: str
    text: str


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes /v1/location and /v1/dns-records."""
    routes = APIRouter(prefix="/v1", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("/location")
    async def location(agent: Agent = the_agent) -> dict[str, Any]:
        """Network location server, web probe and records as this server saw them last, and what is wrong with them."""
        return agent.location.status()

    @routes.get("/dns-records")
    async def records(agent: Agent = the_agent) -> RecordsAnswer:
        """Looks at the records on every DNS server of the zone now."""
        found = await agent.location.records.check(*agent.location.in_force())
        return RecordsAnswer.model_validate(found.as_dict())

    @routes.get("/dns-records/text")
    async def text(
        form: Annotated[Format, Query(alias="format", description="zone file or commands")] = "zone",
        agent: Agent = the_agent,
    ) -> RecordsText:
        """The records as a zone, or as commands that enter them."""
        return RecordsText(format=form, text=agent.location.records.text(form, *agent.location.in_force()))

    @routes.post("/dns-records/update")
    async def update(body: RecordsUpdate, agent: Agent = the_agent) -> UpdateAnswer:
        """Puts missing and wrong records right, and makes all of them young; with `dry_run` only says what differs."""
        settings, values = agent.location.in_force()
        changes, found = await agent.location.records.write(settings, values, dry_run=body.dry_run)
        return UpdateAnswer(
            dry_run=body.dry_run,
            changes=[RecordChangeModel.model_validate(change.as_dict()) for change in changes],
            records=RecordsAnswer.model_validate(found.as_dict()),
        )

    return routes
