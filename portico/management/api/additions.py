"""How far servers are that are being added: once, or line by line until they serve."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from portico.errors import PorticoError
from portico.management.api.models import Fault, Model
from portico.server.additions.core import Addition
from portico.server.additions.follow import Followers, Waiting, look
from portico.server.agent import Agent

log = logging.getLogger("portico.api")

LINES = "application/x-ndjson"

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
_LINES: dict[int | str, dict[str, Any]] = {200: {"content": {LINES: {"schema": {"type": "string"}}}}}


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The route /v1/peers/additions."""
    routes = APIRouter(prefix="/v1/peers", responses=faults)
    the_agent = Depends(agent_of)
    followers = Followers()
    in_lines = Query(default=False, description="a line of JSON each time a server got on, until all serve or failed")

    @routes.get("/additions", response_model=AdditionsAnswer, responses=_LINES)
    async def additions(agent: Agent = the_agent, server: Names = [], progress: bool = in_lines) -> Any:  # noqa: B006
        """How far servers are that are being added. Ask the server that made their tokens."""
        if not progress:
            found = await look(agent, server)
            return AdditionsAnswer(servers=[AdditionModel.model_validate(item.as_dict()) for item in found])
        items = followers.follow(agent, server)
        try:
            first = await anext(items)  # what cannot be followed at all has a status of its own
        except StopAsyncIteration:
            return StreamingResponse(iter(()), media_type=LINES)
        return StreamingResponse(_lines(first, items), media_type=LINES)

    return routes


async def _lines(first: Addition | Waiting, items: AsyncIterator[Addition | Waiting]) -> AsyncIterator[bytes]:
    """Servers as they get on. An error is the last line: the status has been sent by then."""
    try:
        yield _line(first)
        async for item in items:
            yield _line(item)
    except PorticoError as error:
        yield json.dumps({"error": error.as_dict()}).encode() + b"\n"
    except Exception as error:
        log.exception("following servers failed")
        failure = PorticoError("The server failed", why=type(error).__name__, code="INTERNAL")
        yield json.dumps({"error": failure.as_dict()}).encode() + b"\n"


def _line(item: Addition | Waiting) -> bytes:
    data = {"addition": item.as_dict()} if isinstance(item, Addition) else {"waiting": list(item.servers)}
    return json.dumps(data).encode() + b"\n"
