"""Routes about the cluster as it is now: servers, buckets, commands. Its settings are in `load_balancing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from portico.errors import InvalidInput
from portico.management.api.models import Model
from portico.server.agent import Agent


class Command(Model):
    """What a server is to do now. The settings' `state` says what it does after its next start."""

    command: Literal["start", "stop", "drain", "suspend", "resume"]
    server: str = Field(max_length=63, description="name of the server; this one's, unless it can be reached")


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/cluster."""
    routes = APIRouter(prefix="/v1/cluster", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def status(agent: Agent = the_agent) -> dict[str, Any]:
        """The cluster as this server sees it: states, buckets, clients, counters, the last events."""
        return await agent.balancer.status()

    @routes.post("/command")
    async def command(body: Command, agent: Agent = the_agent) -> dict[str, Any]:
        """Starts, stops, drains, suspends or resumes a server."""
        own = (await agent.balancer.status()).get("name")
        if body.server != own:
            raise InvalidInput(
                f"{own} cannot do that for {body.server}",
                why="a server takes these commands from its own administrator",
                resolution=f"Run it there: portico cluster {body.command} {body.server}",
            )
        await agent.balancer.command(body.command)
        return await agent.balancer.status()

    return routes
