"""Routes about users of remote computers: who has authenticated where, and ending it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from portico.administration.roles import current
from portico.errors import InvalidInput
from portico.management.api.models import Model
from portico.management.api.paging import PAGE, After, Limit
from portico.management.api.recording import note
from portico.server.agent import Agent


class UserGrant(Model):
    """A user at a computer. Times in seconds since the epoch; `serial` is that of the computer's certificate."""

    id: str
    user: str
    method: Literal["certificate", "oidc"]
    machine: str
    serial: str
    address: str
    began: float
    until: float
    ended: float | None
    ended_by: str
    state: Literal["open", "revoked", "expired"]


class UsersAnswer(Model):
    users: list[UserGrant]
    next: str | None


class RevokeUser(Model):
    """Exactly one of them."""

    id: str | None = Field(default=None, min_length=1, max_length=64)
    user: str | None = Field(default=None, min_length=1, max_length=200)
    machine: str | None = Field(default=None, min_length=1, max_length=200)


class RevokedUsers(Model):
    revoked: list[str] = Field(description="the grants that ended")


def router(agent_of: Callable[..., Agent], faults: dict[int | str, dict[str, Any]]) -> APIRouter:
    """The routes below /v1/users."""
    routes = APIRouter(prefix="/v1/users", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def users(limit: Limit = PAGE, after: After = None, agent: Agent = the_agent) -> UsersAnswer:
        """Users that have authenticated, newest first, until that would have run out."""
        found, more = agent.users.page(after, limit)
        return UsersAnswer(users=[UserGrant.model_validate(item) for item in found], next=more)

    @routes.post("/revoke")
    async def revoke(body: RevokeUser, agent: Agent = the_agent) -> RevokedUsers:
        """Ends what a user is allowed, on every server; the intranet closes at once. The user may log in again."""
        given = [value for value in (body.id, body.user, body.machine) if value is not None]
        if len(given) != 1:
            raise InvalidInput(
                "It is not clear whose access ends",
                why="exactly one of id, user and machine is needed",
                resolution="Give one of them",
                code="ONE_OF_THREE",
            )
        who = current.get()
        ended = await agent.users.revoke(
            identifier=body.id, user=body.user, machine=body.machine, by=who.name if who is not None else "local"
        )
        note(after=[{"id": grant.id, "user": grant.user, "machine": grant.machine} for grant in ended])
        return RevokedUsers(revoked=[grant.id for grant in ended])

    return routes
