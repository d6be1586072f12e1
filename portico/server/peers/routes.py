"""What one server may ask another one, and who may ask it. Every answer is JSON; every failure becomes one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from portico.certificates.tokens import TokenRefused
from portico.errors import (
    NotFound,
    NotPermitted,
    PorticoError,
)
from portico.http_status import status_of
from portico.server.examination import alive, answer_examination
from portico.server.gateway import Request
from portico.server.peers import messages
from portico.server.peers.listener import PeerRequest, PeerResponse
from portico.server.peers.records import ticket_data

if TYPE_CHECKING:
    from portico.server.peers.peers import Peers

log = logging.getLogger("portico.peers")


STRANGERS = frozenset({("GET", "/v1/trust"), ("POST", "/v1/join")})
"""What a machine without a member's certificate may ask."""


@dataclass(frozen=True)
class Asked:
    """A request that was let in; `sender` is the server's name, None for a stranger."""

    sender: str | None
    address: str
    query: Mapping[str, str]
    body: dict[str, Any]

    @property
    def server(self) -> str:
        assert self.sender is not None
        return self.sender


Route = Callable[[Asked], Awaitable[Any]]


class Routes:
    """Answers the requests that the listener reads."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._routes: Mapping[tuple[str, str], Route] = {
            ("GET", "/v1/trust"): self._trust,
            ("POST", "/v1/join"): self._join,
            ("POST", "/v1/join/confirm"): self._confirm,
            ("POST", "/v1/join/abandon"): self._abandon,
            ("POST", "/v1/join/progress"): self._progress,
            ("POST", "/v1/greeting"): self._greet,
            ("POST", "/v1/changed"): self._changed,
            ("GET", "/v1/state"): self._state,
            ("GET", "/v1/settings"): self._settings,
            ("POST", "/v1/settings/prepare"): self._prepare,
            ("POST", "/v1/settings/commit"): self._commit,
            ("POST", "/v1/settings/release"): self._release,
            ("POST", "/v1/leave"): self._leave,
            ("GET", "/v1/records"): self._records,
            ("POST", "/v1/files"): self._files,
            ("GET", "/v1/tickets"): self._tickets,
            ("POST", "/v1/enrolment"): self._enrolment,
            ("GET", "/v1/clients"): self._clients,
            ("POST", "/v1/clients/disconnect"): self._disconnect,
            ("POST", "/v1/cluster/command"): self._command,
            ("GET", "/v1/access"): self._access,
            ("GET", "/v1/users"): self._users,
            ("GET", "/v1/audit/witness"): self._witness,
            ("POST", "/v1/api"): self._api,
            ("POST", "/v1/examination"): self._examination,
            ("GET", "/v1/alive"): self._alive,
            ("GET", "/v1/health"): self._health,
        }

    async def answer(self, request: PeerRequest) -> PeerResponse:
        """The response; errors become responses, never exceptions."""
        parts = urlsplit(request.target)
        key = (request.method, parts.path)
        try:
            sender = self._peers.member(request.fingerprint) if request.fingerprint is not None else None
            if sender is None and (request.fingerprint is not None or key not in STRANGERS):
                reason = "not a member's certificate" if request.fingerprint is not None else "no certificate"
                self._peers.refusals.note(reason, request.address)
                raise _no_member()
            route = self._routes.get(key)
            if route is None:
                raise NotFound("There is nothing here", code="NO_SUCH_RESOURCE")
            body = messages.parse(request.body) if request.method == "POST" else {}
            query = dict(parse_qsl(parts.query[:2000], max_num_fields=10))
            return _json(200, await route(Asked(sender, request.address, query, body)))
        except TokenRefused as error:
            self._peers.refusals.note(f"token: {error.reason}", request.address)
            return _problem(403, error)
        except PorticoError as error:
            status = status_of(error)
            if status >= 500 or status == 422:
                log.warning("path=%s peer=%s error=%s %s", parts.path[:60], request.address, error.code, error)
            return _problem(status, error)
        except ValueError as error:
            return _problem(400, messages.malformed(str(error)[:200]))
        except Exception:
            log.exception("path=%s peer=%s failed", parts.path[:60], request.address)
            return _problem(500, PorticoError("The server failed", why="its log says why", code="INTERNAL"))

    async def _trust(self, _asked: Asked) -> Any:
        return {"trust": self._peers.trust, "server": self._peers.own_name}

    async def _join(self, asked: Asked) -> Any:
        return await self._peers.admission.join(asked.body, asked.address)

    async def _confirm(self, asked: Asked) -> Any:
        return await self._peers.admission.confirm(asked.server)

    async def _abandon(self, asked: Asked) -> Any:
        return await self._peers.admission.abandon(asked.server)

    async def _progress(self, asked: Asked) -> Any:
        return await self._peers.admission.progress(asked.server, asked.body)

    async def _greet(self, asked: Asked) -> Any:
        self._peers.catching_up.heard(asked.server, asked.body)
        return await self._peers.catching_up.greeting()

    async def _changed(self, asked: Asked) -> Any:
        await self._peers.catching_up.catch_up(asked.server, asked.body)
        return {}

    async def _state(self, _asked: Asked) -> Any:
        assert self._peers.state is not None
        return self._peers.state.as_data()

    async def _settings(self, asked: Asked) -> Any:
        return await self._peers.catching_up.settings_page(int(asked.query.get("after", "0")))

    async def _prepare(self, asked: Asked) -> Any:
        return await self._peers.distribution.prepare(asked.server, asked.body)

    async def _commit(self, asked: Asked) -> Any:
        return await self._peers.distribution.commit(asked.server, asked.body)

    async def _release(self, asked: Asked) -> Any:
        return self._peers.distribution.release(asked.body)

    async def _leave(self, asked: Asked) -> Any:
        self._peers.dismissed(asked.server)
        return {}

    async def _records(self, asked: Asked) -> Any:
        after = int(asked.query.get("after", "0"))
        if not 0 <= after < 1 << 62:
            raise messages.malformed("'after' is out of its range")
        return self._peers.records.page(asked.query.get("log", ""), after)

    async def _files(self, asked: Asked) -> Any:
        return await asyncio.to_thread(self._peers.following.answer, asked.body)

    async def _tickets(self, _asked: Asked) -> Any:
        return {"keys": ticket_data(self._peers.credentials.tickets)}

    async def _enrolment(self, asked: Asked) -> Any:
        identity = asked.body.get("identity")
        try:
            body = base64.b64decode(messages.text(asked.body, "body", limit=1 << 20) or "", validate=True)
        except binascii.Error:
            raise messages.malformed("'body' is not base64") from None
        request = Request(
            number=0,
            peer=messages.text(asked.body, "peer"),
            method=messages.text(asked.body, "method"),
            path=messages.text(asked.body, "path"),
            body=body,
            identity=identity if isinstance(identity, dict) else None,
        )
        response = await self._peers.enrolling.answer(request, messages.number(asked.body, "hops"))
        return {
            "status": response.status,
            "content_type": response.content_type,
            "body": base64.b64encode(response.body).decode(),
        }

    async def _clients(self, _asked: Asked) -> Any:
        return {"sessions": await self._peers.own_sessions()}

    async def _disconnect(self, asked: Asked) -> Any:
        return {"closed": await self._peers.disconnect_here(messages.text(asked.body, "name"))}

    async def _access(self, _asked: Asked) -> Any:
        return await asyncio.to_thread(self._peers.host.access.share)

    async def _users(self, _asked: Asked) -> Any:
        return await asyncio.to_thread(self._peers.host.users.share)

    async def _witness(self, _asked: Asked) -> Any:
        return self._peers.administration.witnesses()

    async def _api(self, asked: Asked) -> Any:
        return await self._peers.administration.answer(asked.body, asked.server)

    async def _health(self, _asked: Asked) -> Any:
        return self._peers.own_health()

    async def _command(self, asked: Asked) -> Any:
        await self._peers.host.command(messages.text(asked.body, "command"), by=asked.server)
        return {}

    async def _examination(self, asked: Asked) -> Any:
        return await answer_examination(self._peers.host, asked.body, asked.server)

    async def _alive(self, _asked: Asked) -> Any:
        return (await alive(self._peers.host)).as_data()


def _no_member() -> NotPermitted:
    return NotPermitted(
        "This is for the servers of the cluster",
        why="the connection shows no certificate of one of them",
        resolution="A server that was taken out joins again with a new token: portico lb add NAME",
        code="NOT_A_MEMBER",
    )


def _problem(status: int, error: PorticoError) -> PeerResponse:
    return _json(status, {"error": error.as_dict()})


def _json(status: int, data: object) -> PeerResponse:
    return PeerResponse(status, json.dumps(data).encode())
