"""Routes about the cluster as it is now: servers, buckets, commands. Its settings are in `load_balancing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from portico import __version__
from portico.management.api.models import Model
from portico.management.api.recording import note
from portico.management.api.roles import operator, viewer
from portico.server.agent import Agent


class Command(Model):
    """What a server is to do now. The settings' `state` says what it does after its next start."""

    command: Literal["start", "stop", "drain", "suspend", "resume"]
    server: str = Field(max_length=63, description="name of a server of the cluster")


class Question(Model):
    """A packet, as it comes from the network."""

    source: str = Field(max_length=60, description="address, or address and port: 203.0.113.7:40000, [2001:db8::7]:443")
    destination: str = Field(max_length=60, description="the same; usually a virtual address")
    protocol: str = Field(default="tcp", max_length=20, description="tcp, udp, esp, icmp, icmpv6 or a number")
    established: bool = Field(default=False, description="belongs to a TCP connection that is there already")


class Explanation(Model):
    """The answer; `server` is the one that takes it, null when it is none or not exactly one."""

    answered_by: str
    outcome: Literal["accepted", "all", "kept", "refused", "dropped", "unowned", "passed"]
    server: str | None
    rule: int | None = Field(description="number of the port rule, from 0; null when none fits or none was looked for")
    default_rule: bool
    bucket: int | None
    slot: int | None
    reasons: list[str]


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/cluster."""
    routes = APIRouter(prefix="/v1/cluster", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def status(agent: Agent = the_agent) -> dict[str, Any]:
        """The cluster as this server sees it: states, versions, buckets, clients, counters, the last events."""
        return with_versions(agent, await agent.balancer.status())

    @routes.post("/explain")
    @viewer
    async def explain(body: Question, agent: Agent = the_agent) -> Explanation:
        """Whether this cluster accepts a packet, where and why; any server answers for all of them."""
        found = await agent.balancer.explain(body.source, body.destination, body.protocol, established=body.established)
        return Explanation.model_validate(found)

    @routes.post("/command")
    @operator
    async def command(body: Command, agent: Agent = the_agent) -> dict[str, Any]:
        """Starts, stops, drains, suspends or resumes a server: this one, or another one over the servers' channel."""
        before = await agent.balancer.status()
        own = before.get("name")
        if body.server == own:
            await agent.command(body.command, by=own)
        else:
            await agent.peers.command(body.server, body.command)
        after = await agent.balancer.status()
        note(before=_state(before, body.server), after=_state(after, body.server))
        return with_versions(agent, after)

    return routes


def with_versions(agent: Agent, status: dict[str, Any]) -> dict[str, Any]:
    """The same with each server's `version` of Portico as it said itself; null for one that has said nothing yet."""
    for server in status.get("servers", ()):
        link = agent.peers.links.get(server["name"])
        said = link.said.get("version") if link is not None else None
        server["version"] = __version__ if server["name"] == agent.peers.own_name else said
    return status


def _state(status: dict[str, Any], name: str) -> dict[str, Any]:
    """A server as the audit log keeps it."""
    found: dict[str, Any] = next((server for server in status.get("servers", ()) if server.get("name") == name), {})
    return {"server": name, **{key: found.get(key) for key in ("state", "status") if key in found}}
