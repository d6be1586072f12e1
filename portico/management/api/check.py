"""Routes that judge and change nothing: all rules on all servers, and what a change would do now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from portico.errors import InvalidInput
from portico.management.api import lines
from portico.management.api.models import Model, OutcomeAnswer, ProblemModel
from portico.server.agent import Agent
from portico.server.check import Report, Step, check, live
from portico.server.transactions import Outcome
from portico.settings.consequences import foresee
from portico.settings.document import load, load_data
from portico.settings.model import Settings


class Document(Model):
    """A settings document, as YAML text or as data."""

    yaml: str | None = Field(default=None, max_length=1 << 20)
    settings: dict[str, Any] | None = None
    source: str = Field(default="the document", max_length=1000)


class StepModel(Model):
    """A server and how its check went; `not joined`: it is in the document and no server of the cluster yet."""

    server: str
    state: Literal["checked", "failed", "not joined"]
    version: str
    seconds: float


class FindingModel(ProblemModel):
    """A problem and the servers that have it; none: it is about the document."""

    servers: list[str]


class ReportAnswer(Model):
    """What is wrong, errors first; `revision` is null for a document that is not stored."""

    revision: int | None
    servers: list[StepModel]
    errors: int
    warnings: int
    findings: list[FindingModel]


class ConsequenceModel(Model):
    path: str
    text: str
    disconnects: bool


class LiveModel(Model):
    """What was counted: tunnels and NAT64 bindings by server, enrolled computers, servers that did not answer."""

    clients: dict[str, int]
    bindings: dict[str, int]
    enrolled: int
    silent: list[str]


class PlanAnswer(OutcomeAnswer):
    """As a dry run of a change, with what it would do to those who are there now."""

    consequences: list[ConsequenceModel]
    live: LiveModel


def router(
    agent_of: Callable[..., Agent],
    faults: dict[int | str, dict[str, Any]],
    answer: Callable[[Agent, Outcome], OutcomeAnswer],
) -> APIRouter:
    """The routes /v1/check and /v1/plan."""
    routes = APIRouter(prefix="/v1", responses=faults)
    the_agent = Depends(agent_of)
    in_lines = Query(default=False, description="a line of JSON for each server that is done, the report as the last")

    async def checked(agent: Agent, candidate: Settings | None, progress: bool) -> Any:
        items = check(agent, candidate)
        if progress:
            return await lines.in_lines(items, _data, "a check")
        async for item in items:
            if isinstance(item, Report):
                return ReportAnswer.model_validate(item.as_dict())
        raise AssertionError("a check ends with a report")

    @routes.get("/check", response_model=ReportAnswer, responses=lines.RESPONSES)
    async def check_settings(agent: Agent = the_agent, progress: bool = in_lines) -> Any:
        """Checks the newest settings with all rules on the machines of all servers."""
        return await checked(agent, None, progress)

    @routes.post("/check", response_model=ReportAnswer, responses=lines.RESPONSES)
    async def check_document(body: Document, agent: Agent = the_agent, progress: bool = in_lines) -> Any:
        """Checks a document with all rules on the machines of all servers. Nothing is stored or applied."""
        return await checked(agent, await _document(body), progress)

    @routes.post("/plan")
    async def plan(body: Document, agent: Agent = the_agent) -> PlanAnswer:
        """What a document would change, and whom that would hit now. Nothing is stored or applied."""
        document = await _document(body)
        store = await asyncio.to_thread(agent.store)
        latest = await asyncio.to_thread(store.latest)
        outcome = await agent.change(document, expected=None, author="", dry_run=True)
        counted = await live(agent)
        former = latest.settings if latest is not None else None
        found = foresee(former, document, outcome.difference, counted)
        return PlanAnswer(
            **answer(agent, outcome).model_dump(),
            consequences=[ConsequenceModel(path=c.path, text=c.text, disconnects=c.disconnects) for c in found],
            live=LiveModel.model_validate(counted.as_dict()),
        )

    return routes


async def _document(body: Document) -> Settings:
    if (body.yaml is None) == (body.settings is None):
        raise InvalidInput("The document is missing", why="exactly one of 'yaml' and 'settings' is needed")
    if body.yaml is not None:
        return await asyncio.to_thread(load, body.yaml, source=body.source)
    return await asyncio.to_thread(load_data, body.settings)


def _data(item: Step | Report) -> dict[str, Any]:
    return {"step": vars(item)} if isinstance(item, Step) else {"report": item.as_dict()}
