"""The REST API of one server, version 1: thin routes over the agent.

It asks nobody who he is: `portico.management.api.guard` stands before it, on the socket of this machine and on the
network.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from portico import __version__
from portico.errors import InvalidInput, NotFound, PorticoError
from portico.http_status import status_of
from portico.management.api import (
    access,
    accounting,
    additions,
    backup,
    ca,
    check,
    cluster,
    health,
    load_balancing,
    location,
    peers,
    store,
    translation,
    users,
)
from portico.management.api.limit import BoundedBody
from portico.management.api.models import (
    ClientModel,
    ClientsAnswer,
    DifferenceModel,
    Disconnected,
    FaultAnswer,
    OutcomeAnswer,
    ProblemModel,
    RevisionModel,
    RevisionProgress,
    Revoked,
    RevokeRequest,
    Rollback,
    SettingsAnswer,
    SettingsChange,
    Status,
)
from portico.management.api.paging import PAGE, After, Limit
from portico.management.api.roles import operator
from portico.server.agent import Agent, Outcome
from portico.server.clients import ClientState
from portico.settings.diff import Difference
from portico.settings.document import dump, load, load_data
from portico.settings.store import Revision

log = logging.getLogger("portico.api")

_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": FaultAnswer} for status in (400, 401, 403, 404, 405, 408, 409, 413, 422, 429, 500, 503)
}


def agent_of(request: HttpRequest) -> Agent:
    agent = request.app.state.agent
    assert isinstance(agent, Agent)
    return agent


TheAgent = Annotated[Agent, Depends(agent_of)]

router = APIRouter(prefix="/v1", responses=_FAULTS)


@router.get("/status")
async def status(agent: TheAgent) -> Status:
    """What this server does, and what is wrong with it."""
    return Status.model_validate(await agent.status())


@router.get("/settings")
async def settings(agent: TheAgent, revision: Annotated[int | None, Query(ge=1)] = None) -> SettingsAnswer:
    """The newest settings, or those of a revision, with what is derived from the ones in force."""
    store = await asyncio.to_thread(agent.store)
    found = await asyncio.to_thread(store.get, revision) if revision is not None else await _latest(agent)
    document = found.settings
    values = agent.platform.values
    in_force = agent.revision is not None and agent.revision.sha256 == found.sha256
    return SettingsAnswer(
        revision=_revision(agent, found),
        read_only=store.read_only,
        settings=document.as_data(),
        yaml=dump(document),
        effective=values.as_dict() if values is not None and in_force else None,
    )


@router.post("/settings")
async def change_settings(agent: TheAgent, body: SettingsChange) -> OutcomeAnswer:
    """Verifies, stores and applies a document as one transaction; with `dry_run` only says what that would do."""
    if (body.yaml is None) == (body.settings is None):
        raise InvalidInput("The document is missing", why="exactly one of 'yaml' and 'settings' is needed")
    if body.yaml is not None:
        document = await asyncio.to_thread(load, body.yaml, source=body.source)
    else:
        document = await asyncio.to_thread(load_data, body.settings)
    outcome = await agent.change(
        document, expected=body.expected_revision, author=body.author, comment=body.comment, dry_run=body.dry_run
    )
    return _outcome(agent, outcome)


@router.get("/settings/history")
async def history(
    agent: TheAgent,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    before: Annotated[int | None, Query(ge=1)] = None,
) -> list[RevisionModel]:
    """Revisions, newest first."""
    store = await asyncio.to_thread(agent.store)
    found = await asyncio.to_thread(lambda: store.history(limit=limit, before=before))
    return [_revision(agent, item) for item in found]


@router.get("/settings/compare")
async def compare(
    agent: TheAgent, before: Annotated[int, Query(ge=0)], after: Annotated[int, Query(ge=1)]
) -> DifferenceModel:
    """What differs from one revision (0: nothing configured) to another."""
    store = await asyncio.to_thread(agent.store)
    return _difference(await asyncio.to_thread(store.compare, before, after), None)


@router.post("/settings/rollback")
async def rollback(agent: TheAgent, body: Rollback) -> OutcomeAnswer:
    """Makes the document of an earlier revision the newest one and applies it."""
    return _outcome(agent, await agent.rollback(body.revision, author=body.author, dry_run=body.dry_run))


@router.post("/settings/repair")
async def repair(agent: TheAgent) -> dict[str, str | None]:
    """Puts a damaged settings database aside and starts a new one from the applied settings."""
    store = await asyncio.to_thread(agent.store)
    aside = await asyncio.to_thread(store.repair, datetime.now(UTC))
    return {"set_aside": str(aside) if aside is not None else None}


@router.get("/clients")
async def clients(
    agent: TheAgent, limit: Limit = PAGE, after: After = None, state: ClientState | None = None
) -> ClientsAnswer:
    """Remote computers: connected ones first, then by name. With a `state` a page may be short and not the last."""
    page = await agent.clients_page(after=after, limit=limit, state=state)
    found = [ClientModel.model_validate(c.as_dict()) for c in page.clients]
    return ClientsAnswer(clients=found, next=page.next, total=page.total)


@router.get("/clients/{name}")
async def client(agent: TheAgent, name: str) -> ClientModel:
    return ClientModel.model_validate((await agent.client(name)).as_dict())


@router.post("/clients/{name}/disconnect")
@operator
async def disconnect(agent: TheAgent, name: str) -> Disconnected:
    """Closes a client's tunnels. It may dial again at once; revoke it to keep it out."""
    return Disconnected(closed=await agent.disconnect(name))


@router.post("/revocations")
async def revoke(agent: TheAgent, body: RevokeRequest) -> Revoked:
    """Revokes the certificates of a client, or one by its serial number, and closes their tunnels at once."""
    serials, closed = await agent.revoke(name=body.name, serial=body.serial, reason=body.reason)
    return Revoked(serials=serials, closed=closed)


async def _latest(agent: Agent) -> Revision:
    store = await asyncio.to_thread(agent.store)
    found = await asyncio.to_thread(store.latest)
    if found is None:
        raise NotFound(
            "There are no settings", why="nothing was installed yet", resolution="Install: portico server install"
        )
    return found


def _revision(agent: Agent, revision: Revision) -> RevisionModel:
    entry = agent.progress.get(revision.number)
    progress = RevisionProgress.model_validate(vars(entry) | {"stage": entry.stage.value}) if entry else None
    return RevisionModel(**revision.as_dict(), progress=progress)


def _difference(difference: Difference, connected: int | None) -> DifferenceModel:
    return DifferenceModel(**difference.as_dict(), lines=difference.lines(connected=connected))


def _outcome(agent: Agent, outcome: Outcome) -> OutcomeAnswer:
    return OutcomeAnswer(
        revision=_revision(agent, outcome.revision) if outcome.revision is not None else None,
        difference=_difference(outcome.difference, outcome.connected),
        problems=[ProblemModel.model_validate(problem.as_dict()) for problem in outcome.problems],
        connected=outcome.connected,
        kernel=outcome.kernel,
    )


def create_app(agent: Agent) -> FastAPI:
    """The application over one agent."""
    app = FastAPI(title="Portico", version=__version__, docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json")
    app.state.agent = agent
    app.include_router(router)
    app.include_router(ca.router(agent_of, _FAULTS))
    app.include_router(translation.router(agent_of, _FAULTS))
    app.include_router(location.router(agent_of, _FAULTS))
    app.include_router(load_balancing.router(agent_of, _FAULTS, _outcome))
    app.include_router(cluster.router(agent_of, _FAULTS))
    app.include_router(peers.router(agent_of, _FAULTS))
    app.include_router(additions.router(agent_of, _FAULTS))
    app.include_router(access.router(agent_of, _FAULTS))
    app.include_router(store.router(agent_of, _FAULTS, _outcome))
    app.include_router(check.router(agent_of, _FAULTS, _outcome))
    app.include_router(health.router(agent_of, _FAULTS))
    app.include_router(accounting.router(agent_of, _FAULTS))
    app.include_router(users.router(agent_of, _FAULTS))
    app.include_router(backup.router(agent_of, _FAULTS))
    app.add_exception_handler(PorticoError, _portico_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failure)
    app.add_middleware(BoundedBody)
    return app


def _fault(status: int, error: PorticoError) -> JSONResponse:
    return JSONResponse({"error": _plain(error.as_dict())}, status_code=status)


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


async def _portico_error(_request: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, PorticoError)
    status = status_of(error)
    if status >= 500:
        log.warning("error=%s %s", error.code, error)
    return _fault(status, error)


async def _bad_request(_request: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    why = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:5])
    return _fault(400, InvalidInput("The request cannot be used", why=why))


async def _http_error(_request: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = "NOT_FOUND" if error.status_code == 404 else "HTTP_ERROR"
    return _fault(error.status_code, PorticoError(str(error.detail), code=code))


async def _failure(_request: HttpRequest, error: Exception) -> JSONResponse:
    log.error("the API failed", exc_info=error)
    return _fault(500, PorticoError("The server failed", why=type(error).__name__, code="INTERNAL"))
