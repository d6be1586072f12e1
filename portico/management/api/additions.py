"""How far servers are that are being added: once, or line by line until they serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from portico.management.api import lines
from portico.management.api.models import Fault, Model
from portico.server.additions.core import Addition
from portico.server.additions.follow import Followers, Waiting, look
from portico.server.agent import Agent

StateName = Literal["waiting", "running", "done", "failed"]


class AdditionStep(Model):
    """One step of a server: preparing, checking, joining, converging, in this order."""

    step: Literal["preparing", "checking", "joining", "converging"]
    state: StateName
    detail: str
    failure: Fault | None


class AdditionModel(Model):
    """A server that is being added. `state` is done when all steps are, failed when one is."""

    server: str
    state: StateName
    steps: list[AdditionStep]


class AdditionsAnswer(Model):
    """Without names: every server that the answering one made a token for, or that asked it to be taken in."""

    servers: list[AdditionModel]


Names = Annotated[
    list[Annotated[str, Field(max_length=63)]], Query(description="names of servers; none: all", max_length=32)
]


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The route /v1/peers/additions."""
    routes = APIRouter(prefix="/v1/peers", responses=faults)
    the_agent = Depends(agent_of)
    followers = Followers()
    in_lines = Query(default=False, description="a line of JSON each time a server got on, until all serve or failed")

    @routes.get("/additions", response_model=AdditionsAnswer, responses=lines.RESPONSES)
    async def additions(agent: Agent = the_agent, server: Names = [], progress: bool = in_lines) -> Any:  # noqa: B006
        """How far servers are that are being added. Ask the server that made their tokens."""
        if not progress:
            found = await look(agent, server)
            return AdditionsAnswer(servers=[AdditionModel.model_validate(item.as_dict()) for item in found])
        return await lines.in_lines(followers.follow(agent, server), _data, "following servers")

    return routes


def _data(item: Addition | Waiting) -> dict[str, Any]:
    return {"addition": item.as_dict()} if isinstance(item, Addition) else {"waiting": list(item.servers)}
