"""Routes about NAT64 and DNS64: what is bound now and was before, counters, the cache, questions."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from portico.accounting.binding_search import Wanted
from portico.management.api.models import (
    BindingsAnswer,
    Dns64Answer,
    Dns64Flush,
    Dns64Query,
    Dns64Stats,
    Flushed,
    LogAnswer,
    Nat64Stats,
    SessionsAnswer,
)
from portico.management.api.roles import operator, viewer
from portico.server.agent import Agent
from portico.server.translation import MAXIMUM_PAGE, PAGE

Protocol = Literal["tcp", "udp", "icmp"]
Limit = Annotated[int, Query(ge=1, le=MAXIMUM_PAGE)]
Port = Annotated[int | None, Query(ge=0, le=65_535, description="of the IPv4 side; an echo identifier for ICMP")]
Client = Annotated[str | None, Query(max_length=200, description="IPv6 address or name")]
After = Annotated[str | None, Query(max_length=200, description="'next' of the page before")]


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/nat64 and /v1/dns64."""
    routes = APIRouter(prefix="/v1", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("/nat64/sessions")
    async def sessions(
        limit: Limit = PAGE,
        after: After = None,
        client: Client = None,
        protocol: Protocol | None = None,
        port: Port = None,
        destination: IPv4Address | None = None,
        agent: Agent = the_agent,
    ) -> SessionsAnswer:
        """Who talks to which IPv4 server now, from which IPv4 address and port."""
        found = await agent.translation.table(
            "sessions",
            limit=limit,
            after=after,
            client=client,
            protocol=protocol,
            port=port,
            destination=str(destination) if destination is not None else None,
        )
        return SessionsAnswer.model_validate(found)

    @routes.get("/nat64/bindings")
    async def bindings(
        limit: Limit = PAGE,
        after: After = None,
        client: Client = None,
        protocol: Protocol | None = None,
        port: Port = None,
        agent: Agent = the_agent,
    ) -> BindingsAnswer:
        """Which IPv4 address and port stands for which client and port now."""
        found = await agent.translation.table(
            "bindings", limit=limit, after=after, client=client, protocol=protocol, port=port
        )
        return BindingsAnswer.model_validate(found)

    @routes.get("/nat64/stats")
    async def nat64_stats(agent: Agent = the_agent) -> Nat64Stats:
        """Counters of NAT64, its limits, and how the log of bindings does."""
        return Nat64Stats.model_validate(await agent.translation.nat64_stats())

    @routes.get("/nat64/log")
    async def log(
        start: Annotated[float, Query(ge=0, description="seconds since the epoch")],
        end: Annotated[float, Query(ge=0, description="seconds since the epoch, included")],
        limit: Limit = PAGE,
        offset: Annotated[int, Query(ge=0)] = 0,
        address: IPv4Address | None = None,
        port: Port = None,
        protocol: Protocol | None = None,
        client: Annotated[str | None, Query(max_length=200, description="IPv6 address")] = None,
        name: Annotated[str | None, Query(max_length=200, description="name of the client")] = None,
        agent: Agent = the_agent,
    ) -> LogAnswer:
        """Which client had which IPv4 address and port within a time."""
        wanted = Wanted(start, end, protocol, str(address) if address is not None else None, port, client, name)
        return LogAnswer.model_validate(await agent.translation.log(wanted, offset=offset, limit=limit))

    @routes.get("/dns64/stats")
    async def dns64_stats(agent: Agent = the_agent) -> Dns64Stats:
        """Counters of DNS64 and of the servers it asks."""
        return Dns64Stats.model_validate(await agent.translation.dns64_stats())

    @routes.post("/dns64/flush")
    @operator
    async def flush(body: Dns64Flush, agent: Agent = the_agent) -> Flushed:
        """Forgets cached answers: all of them, those of a name, or those of a name and all below it."""
        return Flushed(removed=await agent.translation.dns64_flush(body.name, tree=body.tree))

    @routes.post("/dns64/query")
    @viewer
    async def query(body: Dns64Query, agent: Agent = the_agent) -> Dns64Answer:
        """Asks DNS64 as a client would; the answer says how it came to be."""
        found = await agent.translation.dns64_query(body.name, body.type, dnssec=body.dnssec, timeout=body.timeout)
        return Dns64Answer.model_validate(found)

    return routes
