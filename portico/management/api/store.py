"""Routes about the cluster's store: where revisions are decided, moving there and back, recovery."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from portico.errors import InvalidInput
from portico.management.api.models import Fault, Model, OutcomeAnswer
from portico.server.agent import Agent, Outcome
from portico.server.credentials import now_utc
from portico.settings.cluster_store import ClusterStore


class StoreMember(Model):
    """An endpoint of etcd as the server that answers sees it. `bytes` is the size of its database."""

    endpoint: str
    name: str | None
    witness: bool
    state: str
    version: str | None
    bytes: int | None
    trouble: str


class StoreProcess(Model):
    """etcd on the server that answers. `unit` is None when the agent started it itself."""

    state: str
    reason: str
    pid: int | None
    restarts: int
    unit: str | None


class WitnessModel(Model):
    """The machine that is no server and votes. `silent_seconds`: since this server heard it; None while it rests."""

    name: str
    address: str
    silent_seconds: float | None


class StoreAnswer(Model):
    """The store as the server that answers sees it; `problem` says why settings are read-only."""

    kind: Literal["sqlite", "etcd"]
    generation: str | None
    existing: bool
    answered_by: str
    quorum: bool
    read_only: bool
    problem: Fault | None
    voters: list[str]
    voters_why: str
    revision: int
    members: list[StoreMember]
    witness: WitnessModel | None
    process: StoreProcess | None


class Authored(Model):
    author: str = Field(default="root", max_length=200)


class MoveRequest(Authored):
    """Where to. Endpoints, CA, certificate and key are of an etcd that is there already."""

    kind: Literal["sqlite", "etcd"]
    endpoints: list[str] = Field(default_factory=list, max_length=16)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


class WitnessRequest(Model):
    """`address` is where the servers find it; null: the one from which it asks."""

    name: str = Field(max_length=63)
    address: str | None = Field(default=None, max_length=64)
    lifetime_seconds: int = Field(default=3600, ge=1, le=86_400)


class WitnessToken(Model):
    """`token` is shown once and kept by nobody."""

    name: str
    token: str
    expires: str
    server: str


class RecoverRequest(Authored):
    """`force` also while the store works."""

    force: bool = False


class Compacted(Model):
    deleted: int


def router(
    agent_of: Callable[..., Agent],
    faults: dict[int | str, dict[str, Any]],
    answer: Callable[[Agent, Outcome], OutcomeAnswer],
) -> APIRouter:
    """The routes below /v1/cluster/store."""
    routes = APIRouter(prefix="/v1/cluster/store", responses=faults)
    the_agent = Depends(agent_of)

    @routes.get("")
    async def show(agent: Agent = the_agent) -> StoreAnswer:
        """Which store decides, whether it works, and its members."""
        return StoreAnswer.model_validate(await agent.peers.keeper.status())

    @routes.post("/move")
    async def move(body: MoveRequest, agent: Agent = the_agent) -> OutcomeAnswer:
        """Lets etcd decide about revisions, or the servers among themselves again. A failure leaves things as they
        were."""
        if body.kind == "sqlite":
            return answer(agent, await agent.peers.moves.to_sqlite(body.author))
        existing = None
        if body.endpoints or body.ca or body.certificate or body.key:
            try:
                existing = ClusterStore(
                    endpoints=body.endpoints, ca=body.ca, certificate=body.certificate, key=body.key
                )
            except ValueError as error:
                raise InvalidInput("The existing etcd cannot be used", why=str(error)[:500]) from None
            if not (body.endpoints and body.ca and body.certificate and body.key):
                raise InvalidInput(
                    "An existing etcd is asked with a certificate only",
                    why="endpoints, CA, certificate and key belong together",
                    resolution="Give --endpoint, --ca, --certificate and --key, as files that are on every server",
                )
        return answer(agent, await agent.peers.moves.to_etcd(body.author, existing))

    @routes.post("/recover")
    async def recover(body: RecoverRequest, agent: Agent = the_agent) -> OutcomeAnswer:
        """Makes a lost etcd anew from the revisions that the answering server has."""
        return answer(agent, await agent.peers.moves.recover(body.author, force=body.force))

    @routes.post("/rejoin")
    async def rejoin(agent: Agent = the_agent) -> StoreAnswer:
        """Makes the answering server's member of etcd anew from the others."""
        await agent.peers.moves.rejoin()
        return StoreAnswer.model_validate(await agent.peers.keeper.status())

    @routes.post("/compact")
    async def compact(agent: Agent = the_agent) -> Compacted:
        """Deletes old revisions from etcd and gives their space back; the servers keep theirs."""
        return Compacted(deleted=await agent.peers.moves.compact())

    @routes.post("/witness")
    async def witness(body: WitnessRequest, agent: Agent = the_agent) -> WitnessToken:
        """Makes a token with which one machine becomes the witness: it votes beside two servers and is none."""
        lifetime = timedelta(seconds=body.lifetime_seconds)
        expires = now_utc() + lifetime
        made = await agent.peers.witnessing.create_token(body.name, body.address, lifetime)
        return WitnessToken(name=made.name, token=made.text, expires=expires.isoformat(), server=agent.peers.own_name)

    @routes.post("/witness/remove")
    async def remove_witness(body: Authored, agent: Agent = the_agent) -> OutcomeAnswer:
        """Takes the witness out, also one that does not answer."""
        return answer(agent, await agent.peers.witnessing.remove(body.author))

    return routes
