"""Routes about inbox accounting: the store of the server that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from portico.management.api.models import Model
from portico.server.agent import Agent

Time = Annotated[float | None, Query(ge=0, le=1e11, description="seconds since the epoch")]


class AccountingAnswer(Model):
    """`sessions` counts all that are in the store; `lost` those since the start that could not be written."""

    enabled: bool
    limit: str
    used_bytes: int
    free_bytes: int
    first_record: float | None
    last_record: float | None
    sessions: int
    lost: int
    trouble: str | None
    opened_since_start: int
    most_at_once: int


class AccountedSessionModel(Model):
    id: int
    server: str
    name: str
    serial: str | None
    technology: str
    peer: str
    addresses: list[str]
    started: float
    ended: float | None
    last_seen: float
    bytes_in: int
    bytes_out: int
    reason: str | None


class AccountedSessionsAnswer(Model):
    sessions: list[AccountedSessionModel]
    next: int | None


class AccountedSummaryAnswer(Model):
    sessions: int
    most_at_once: int
    unique_names: int
    bytes_in: int
    bytes_out: int
    days: float


class Clear(Model):
    """Without times everything that has ended goes."""

    start: float | None = Field(default=None, ge=0, le=1e11)
    end: float | None = Field(default=None, ge=0, le=1e11)
    dry_run: bool = False


class Cleared(Model):
    sessions: int


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/accounting."""
    routes = APIRouter(prefix="/v1/accounting", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def status(agent: Agent = the_agent) -> AccountingAnswer:
        """Whether sessions are written down, and how large the store is."""
        return AccountingAnswer.model_validate(await agent.inbox.status())

    @routes.get("/sessions")
    async def sessions(
        start: Time = None,
        end: Time = None,
        name: Annotated[str | None, Query(max_length=200)] = None,
        after: Annotated[int | None, Query(ge=0, le=2**62, description="'next' of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
        agent: Agent = the_agent,
    ) -> AccountedSessionsAnswer:
        """Sessions that existed within a time."""
        await agent.inbox.flush()
        found, more = await asyncio.to_thread(
            lambda: agent.inbox.store().sessions(start=start, end=end, name=name, after=after, limit=limit)
        )
        return AccountedSessionsAnswer.model_validate({"sessions": found, "next": more})

    @routes.get("/summary")
    async def summary(start: Time = None, end: Time = None, agent: Agent = the_agent) -> AccountedSummaryAnswer:
        """How many sessions, clients and bytes within a time."""
        await agent.inbox.flush()
        found = await asyncio.to_thread(lambda: agent.inbox.store().summary(start, end))
        return AccountedSummaryAnswer.model_validate(found)

    @routes.post("/clear")
    async def clear(body: Clear, agent: Agent = the_agent) -> Cleared:
        """Deletes ended sessions that existed within a time."""
        count = await asyncio.to_thread(lambda: agent.inbox.store().clear(body.start, body.end, dry_run=body.dry_run))
        return Cleared(sessions=count)

    return routes
