"""Routes about the servers of the cluster: tokens for new ones, who is there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field

from portico.errors import NotFound
from portico.management.api.load_balancing import Add, check_addition
from portico.management.api.models import Fault, Model, ProblemModel
from portico.server.additions.core import plan
from portico.server.agent import Agent
from portico.server.credentials import now_utc


class JoinRequest(Add):
    """`dry_run` verifies and makes no token."""

    lifetime_seconds: int = Field(default=3600, ge=1, le=86_400)


class PlannedStep(Model):
    step: str
    what: str


class JoinAnswer(Model):
    """`token` is shown once and kept by nobody; None with `dry_run`. `plan`: what follows, see /v1/peers/additions."""

    name: str
    token: str | None
    expires: str | None
    server: str
    problems: list[ProblemModel]
    plan: list[PlannedStep]


class JoinTokenModel(Model):
    id: str
    name: str
    expires: str
    state: str


class PeerModel(Model):
    name: str
    reachable: bool
    revision: int | None
    applied: int | None
    version: str | None


class PeersAnswer(Model):
    """The servers as the one that answers sees them."""

    name: str
    leader: str
    quorum: bool
    problem: Fault | None
    refused: dict[str, int]
    servers: list[PeerModel]


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/peers."""
    routes = APIRouter(prefix="/v1/peers", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def show(agent: Agent = the_agent) -> PeersAnswer:
        """Which servers can be reached, and how far each is."""
        status = agent.peers.status()
        if status is None:
            raise NotFound(
                "Load balancing is not enabled",
                why="this server serves alone",
                resolution="Enable it: portico lb enable --internet-dedicated-address ADDRESS/LENGTH",
                code="LB_DISABLED",
            )
        return PeersAnswer.model_validate(status)

    @routes.post("/tokens")
    async def token(body: JoinRequest, agent: Agent = the_agent) -> JoinAnswer:
        """Makes a token with which one machine joins the cluster once."""
        agent.peers.require_cluster()
        problems = await check_addition(agent, body)
        lifetime = timedelta(seconds=body.lifetime_seconds)
        wish = {
            "internet_dedicated_addresses": body.internet_dedicated_addresses,
            "internal_dedicated_addresses": body.internal_dedicated_addresses,
            "priority": body.priority,
            "weight": body.weight,
        }
        expires = now_utc() + lifetime
        made = None if body.dry_run else await agent.peers.admission.create_token(body.name, wish, lifetime)
        return JoinAnswer(
            name=body.name,
            token=made.text if made is not None else None,
            expires=expires.isoformat() if made is not None else None,
            server=agent.peers.own_name,
            problems=[ProblemModel.model_validate(problem.as_dict()) for problem in problems],
            plan=[PlannedStep.model_validate(item) for item in plan(body.name)],
        )

    @routes.get("/tokens")
    async def tokens(agent: Agent = the_agent) -> list[JoinTokenModel]:
        """The tokens that this server made, without their secrets."""
        return [JoinTokenModel.model_validate(item) for item in await agent.peers.admission.tokens()]

    return routes
