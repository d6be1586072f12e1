"""The agent's control socket: JSON over HTTP for the command line and for desktops.

`GET /v1/status`; `POST /v1/connect`, `/v1/disconnect`, `/v1/redial`, `/v1/renew`, `/v1/reload`. Each answers with the
status. `GET /v1/user`, `/v1/user/challenge`, `/v1/user/provider`, `POST /v1/user/login`, `/v1/user/logout`: the
user's level of access.
`GET /v1/log`, `/v1/readers`: the last log lines, and who reads the status socket.
An error is `{"error": {code, what, why, resolution}}`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from portico.client import users
from portico.client.status import ClientStatus
from portico.client.surface import surface
from portico.errors import Conflict, NotFound, PorticoError
from portico.files import not_written
from portico.http_status import status_of


class Agent(Protocol):
    """What the socket offers to the outside."""

    user: users.User
    surface: surface.Surface

    async def status(self) -> ClientStatus: ...
    async def connect(self) -> None: ...
    async def disconnect(self) -> None: ...
    async def redial(self, reason: str) -> None: ...
    async def renew(self) -> None: ...
    async def reload(self) -> None: ...


def create_app(agent: Agent) -> FastAPI:
    """The API of one agent."""
    app = FastAPI(title="Portico client", docs_url=None, redoc_url=None, openapi_url=None)

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, PorticoError)
        return JSONResponse({"error": error.as_dict()}, status_of(error, 503))

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path} is not part of this API"
        return JSONResponse({"error": NotFound(what).as_dict()}, error.status_code)

    app.add_exception_handler(PorticoError, refused)
    app.add_exception_handler(HTTPException, unknown)

    def offer(name: str, act: Callable[[], Awaitable[None]]) -> None:
        async def endpoint() -> dict[str, Any]:
            await act()
            return (await agent.status()).as_dict()

        app.add_api_route(f"/v1/{name}", endpoint, methods=["POST"], name=name)

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        return (await agent.status()).as_dict()

    async def redial() -> None:
        await agent.redial("asked for")

    offer("connect", agent.connect)
    offer("disconnect", agent.disconnect)
    offer("redial", redial)
    offer("renew", agent.renew)
    offer("reload", agent.reload)
    users.offer(app, agent)
    surface.offer(app, agent)
    return app


def listen(path: Path) -> socket.socket:
    """The listening socket, mode 0600.

    Raises:
        Conflict: code AGENT_RUNNING, another agent answers there.
        Unavailable: code FILE_NOT_WRITTEN.
    """
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with probe:
            probe.settimeout(2.0)
            with contextlib.suppress(TimeoutError):
                probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    except OSError as error:
        raise not_written(path, error) from None
    else:
        raise Conflict(
            "The client's agent cannot start",
            why=f"another one answers on {path}",
            resolution="Look at it: systemctl status portico-client",
            code="AGENT_RUNNING",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        # Between bind and chmod nothing can connect: it does not listen yet.
        path.chmod(0o600)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise not_written(path, error) from None
    return listener


class ControlServer(uvicorn.Server):
    """Serves the API on a socket; signals are the agent's business."""

    def __init__(self, agent: Agent, listener: socket.socket) -> None:
        config = uvicorn.Config(
            create_app(agent),
            log_config=None,
            access_log=False,
            lifespan="off",
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self._listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def run_until_stopped(self) -> None:
        """Serves until `should_exit`."""
        await self.serve(sockets=[self._listener])
